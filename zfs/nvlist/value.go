// SPDX-License-Identifier: BSD-2-Clause

package nvlist

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Type is the type of a value, data_type_t of sys/nvpair.h.
type Type int32

// The types, with the numbers that travel in both encodings.
const (
	TypeFlag         Type = 1 // DATA_TYPE_BOOLEAN: no value, presence counts
	TypeByte         Type = 2
	TypeInt16        Type = 3
	TypeUint16       Type = 4
	TypeInt32        Type = 5
	TypeUint32       Type = 6
	TypeInt64        Type = 7
	TypeUint64       Type = 8
	TypeString       Type = 9
	TypeBytes        Type = 10 // DATA_TYPE_BYTE_ARRAY
	TypeInt16s       Type = 11
	TypeUint16s      Type = 12
	TypeInt32s       Type = 13
	TypeUint32s      Type = 14
	TypeInt64s       Type = 15
	TypeUint64s      Type = 16
	TypeStrings      Type = 17
	TypeDuration     Type = 18 // DATA_TYPE_HRTIME: nanoseconds
	TypeList         Type = 19 // DATA_TYPE_NVLIST
	TypeLists        Type = 20 // DATA_TYPE_NVLIST_ARRAY
	TypeBool         Type = 21 // DATA_TYPE_BOOLEAN_VALUE
	TypeInt8         Type = 22
	TypeUint8        Type = 23
	TypeBools        Type = 24
	TypeInt8s        Type = 25
	TypeUint8s       Type = 26
	TypeFloat64      Type = 27 // DATA_TYPE_DOUBLE: user space only, the kernel rejects it
	typeMax               = TypeFloat64
	typeFirstInvalid      = typeMax + 1
)

var typeNames = [typeFirstInvalid]string{
	TypeFlag: "boolean", TypeByte: "byte", TypeInt16: "int16", TypeUint16: "uint16", TypeInt32: "int32",
	TypeUint32: "uint32", TypeInt64: "int64", TypeUint64: "uint64", TypeString: "string", TypeBytes: "byte_array",
	TypeInt16s: "int16_array", TypeUint16s: "uint16_array", TypeInt32s: "int32_array", TypeUint32s: "uint32_array",
	TypeInt64s: "int64_array", TypeUint64s: "uint64_array", TypeStrings: "string_array", TypeDuration: "hrtime",
	TypeList: "nvlist", TypeLists: "nvlist_array", TypeBool: "boolean_value", TypeInt8: "int8", TypeUint8: "uint8",
	TypeBools: "boolean_array", TypeInt8s: "int8_array", TypeUint8s: "uint8_array", TypeFloat64: "double",
}

// String gives the type's name in libnvpair's words.
func (t Type) String() string {
	if t > 0 && t < typeFirstInvalid {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", int32(t))
}

// Flag is a value that is only present (DATA_TYPE_BOOLEAN).
type Flag struct{}

// Byte is one byte of DATA_TYPE_BYTE, which is a type apart from uint8.
type Byte byte

// Uint8s is DATA_TYPE_UINT8_ARRAY; a plain []byte is DATA_TYPE_BYTE_ARRAY.
type Uint8s []uint8

// GoType lists the Go types that stand for the types of an nvlist.
type GoType interface {
	Flag | bool | Byte | int8 | uint8 | int16 | uint16 | int32 | uint32 | int64 | uint64 | float64 |
		time.Duration | string | *List |
		[]bool | []byte | []int8 | Uint8s | []int16 | []uint16 | []int32 | []uint32 | []int64 | []uint64 |
		[]string | []*List
}

// Value is one value of any type. The zero Value is invalid.
type Value struct {
	typ Type
	num uint64 // every scalar, sign-extended
	str string
	ref any // slices and *List
}

// Pair is a named value.
type Pair struct {
	Name  string
	Value Value
}

// P makes a pair.
func P[T GoType](name string, v T) Pair { return Pair{name, Of(v)} }

func signed[T int8 | int16 | int32 | int64 | time.Duration](t Type, v T) Value {
	return Value{typ: t, num: uint64(int64(v))}
}

// Of makes a value. Slices and lists are referred to, not copied.
func Of[T GoType](v T) Value {
	val, _ := ValueOf(v)
	return val
}

// ValueOf makes a value from one of the Go types of GoType; false for any other.
func ValueOf(v any) (Value, bool) {
	switch v := v.(type) {
	case Flag:
		return Value{typ: TypeFlag}, true
	case bool:
		if v {
			return Value{typ: TypeBool, num: 1}, true
		}
		return Value{typ: TypeBool}, true
	case Byte:
		return Value{typ: TypeByte, num: uint64(v)}, true
	case int8:
		return signed(TypeInt8, v), true
	case uint8:
		return Value{typ: TypeUint8, num: uint64(v)}, true
	case int16:
		return signed(TypeInt16, v), true
	case uint16:
		return Value{typ: TypeUint16, num: uint64(v)}, true
	case int32:
		return signed(TypeInt32, v), true
	case uint32:
		return Value{typ: TypeUint32, num: uint64(v)}, true
	case int64:
		return signed(TypeInt64, v), true
	case uint64:
		return Value{typ: TypeUint64, num: v}, true
	case float64:
		return Value{typ: TypeFloat64, num: math.Float64bits(v)}, true
	case time.Duration:
		return signed(TypeDuration, v), true
	case string:
		return Value{typ: TypeString, str: v}, true
	case *List:
		if v == nil {
			v = New()
		}
		return Value{typ: TypeList, ref: v}, true
	case []bool:
		return Value{typ: TypeBools, ref: v}, true
	case []byte:
		return Value{typ: TypeBytes, ref: v}, true
	case []int8:
		return Value{typ: TypeInt8s, ref: v}, true
	case Uint8s:
		return Value{typ: TypeUint8s, ref: v}, true
	case []int16:
		return Value{typ: TypeInt16s, ref: v}, true
	case []uint16:
		return Value{typ: TypeUint16s, ref: v}, true
	case []int32:
		return Value{typ: TypeInt32s, ref: v}, true
	case []uint32:
		return Value{typ: TypeUint32s, ref: v}, true
	case []int64:
		return Value{typ: TypeInt64s, ref: v}, true
	case []uint64:
		return Value{typ: TypeUint64s, ref: v}, true
	case []string:
		return Value{typ: TypeStrings, ref: v}, true
	case []*List:
		return Value{typ: TypeLists, ref: v}, true
	}
	return Value{}, false
}

// Type is the value's type, 0 for the zero Value.
func (v Value) Type() Type { return v.typ }

// As gives the value as T, and false if it is of another type.
func As[T GoType](v Value) (T, bool) {
	t, ok := v.Any().(T)
	return t, ok
}

// Any gives the value as the Go type that stands for its type, nil for the zero Value.
func (v Value) Any() any {
	switch v.typ {
	case TypeFlag:
		return Flag{}
	case TypeBool:
		return v.num != 0
	case TypeByte:
		return Byte(v.num)
	case TypeInt8:
		return int8(v.num)
	case TypeUint8:
		return uint8(v.num)
	case TypeInt16:
		return int16(v.num)
	case TypeUint16:
		return uint16(v.num)
	case TypeInt32:
		return int32(v.num)
	case TypeUint32:
		return uint32(v.num)
	case TypeInt64:
		return int64(v.num)
	case TypeUint64:
		return v.num
	case TypeFloat64:
		return math.Float64frombits(v.num)
	case TypeDuration:
		return time.Duration(v.num)
	case TypeString:
		return v.str
	}
	return v.ref
}

// Uint gives any integer type (and bool) as a uint64; false for another type or a negative number.
func (v Value) Uint() (uint64, bool) {
	switch v.typ {
	case TypeBool, TypeByte, TypeUint8, TypeUint16, TypeUint32, TypeUint64:
		return v.num, true
	case TypeInt8, TypeInt16, TypeInt32, TypeInt64, TypeDuration:
		return v.num, int64(v.num) >= 0
	}
	return 0, false
}

// Int gives any integer type (and bool) as an int64; false for another type or a number beyond int64.
func (v Value) Int() (int64, bool) {
	switch v.typ {
	case TypeBool, TypeByte, TypeUint8, TypeUint16, TypeUint32, TypeUint64:
		return int64(v.num), v.num <= math.MaxInt64
	case TypeInt8, TypeInt16, TypeInt32, TypeInt64, TypeDuration:
		return int64(v.num), true
	}
	return 0, false
}

// Str gives a string, and false for another type.
func (v Value) Str() (string, bool) { return v.str, v.typ == TypeString }

// List gives a nested list, and nil for another type.
func (v Value) List() *List {
	l, _ := v.ref.(*List)
	return l
}

// Lists gives an array of nested lists, and nil for another type.
func (v Value) Lists() []*List {
	l, _ := v.ref.([]*List)
	return l
}

// Equal reports whether both have the same type and the same content.
// NaN equals itself when the bits are the same.
func (v Value) Equal(w Value) bool {
	if v.typ != w.typ || v.num != w.num || v.str != w.str {
		return false
	}
	switch a := v.ref.(type) {
	case nil:
		return w.ref == nil
	case *List:
		return a.Equal(w.List())
	case []*List:
		return slices.EqualFunc(a, w.Lists(), (*List).Equal)
	case []bool:
		return equalSlice(a, w)
	case []byte:
		return equalSlice(a, w)
	case Uint8s:
		b, ok := w.ref.(Uint8s)
		return ok && slices.Equal(a, b)
	case []int8:
		return equalSlice(a, w)
	case []int16:
		return equalSlice(a, w)
	case []uint16:
		return equalSlice(a, w)
	case []int32:
		return equalSlice(a, w)
	case []uint32:
		return equalSlice(a, w)
	case []int64:
		return equalSlice(a, w)
	case []uint64:
		return equalSlice(a, w)
	case []string:
		return equalSlice(a, w)
	}
	return false
}

func equalSlice[E comparable](a []E, w Value) bool {
	b, ok := w.ref.([]E)
	return ok && slices.Equal(a, b)
}

// nelem is the element count that both encodings write.
func (v Value) nelem() int {
	switch r := v.ref.(type) {
	case nil:
		if v.typ == TypeFlag {
			return 0
		}
		return 1
	case *List:
		return 1
	case []*List:
		return len(r)
	case []bool:
		return len(r)
	case []byte:
		return len(r)
	case Uint8s:
		return len(r)
	case []int8:
		return len(r)
	case []int16:
		return len(r)
	case []uint16:
		return len(r)
	case []int32:
		return len(r)
	case []uint32:
		return len(r)
	case []int64:
		return len(r)
	case []uint64:
		return len(r)
	case []string:
		return len(r)
	}
	return 0
}
