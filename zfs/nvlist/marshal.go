// SPDX-License-Identifier: BSD-2-Clause

package nvlist

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
)

// Marshal builds a list from a struct. A field becomes a pair of its nvlist
// type (see GoType) under the name of its tag, `nv:"name,option,…"`, or of the
// field; "-" leaves it out. A nested struct becomes a nested list, a slice of
// structs an array of lists, a map[string]T a list of pairs. A nil pointer is
// left out. A pair of an embedded struct goes into the outer list. Options:
//
//	omitempty  leave out a zero value
//	flag       a bool field that is a Flag pair when true and no pair when false
//	rest       a *List field that takes the pairs which no other field names;
//	           of several, in embedded structs too, the first does
//
// Two pairs of one name are ErrDuplicate.
func Marshal(v any) (*List, error) {
	rv := reflect.ValueOf(v)
	for rv.Kind() == reflect.Pointer && !rv.IsNil() {
		rv = rv.Elem()
	}
	if rv.Kind() != reflect.Struct {
		return nil, fmt.Errorf("nvlist: marshal %T: not a struct: %w", v, ErrInvalid)
	}
	l := &List{}
	if err := marshalStruct(l, rv, 1); err != nil {
		return nil, fmt.Errorf("nvlist: marshal %T: %w", v, err)
	}
	return l, nil
}

type field struct {
	name                  string
	index                 int
	omitEmpty, flag, rest bool
	inline                bool
}

func fields(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, tagged := sf.Tag.Lookup("nv")
		if tag == "-" || !sf.IsExported() {
			continue
		}
		name, opts, _ := strings.Cut(tag, ",")
		f := field{name: name, index: i}
		f.inline = sf.Anonymous && !tagged && sf.Type.Kind() == reflect.Struct
		if name == "" {
			f.name = sf.Name
		}
		for o := range strings.SplitSeq(opts, ",") {
			switch o {
			case "omitempty":
				f.omitEmpty = true
			case "flag":
				f.flag = sf.Type.Kind() == reflect.Bool
			case "rest":
				f.rest = sf.Type == reflect.TypeFor[*List]()
			}
		}
		out = append(out, f)
	}
	return out
}

func marshalStruct(l *List, rv reflect.Value, depth int) error {
	if depth > maxDepth {
		return ErrDepth
	}
	put := func(name string, v Value) error {
		if !l.add(Pair{name, v}) {
			return fmt.Errorf("%s: %w", name, ErrDuplicate)
		}
		return nil
	}
	for _, f := range fields(rv.Type()) {
		fv := rv.Field(f.index)
		switch {
		case f.inline:
			if err := marshalStruct(l, fv, depth+1); err != nil {
				return err
			}
			continue
		case f.rest:
			for name, v := range fv.Interface().(*List).All() {
				if err := put(name, v); err != nil {
					return err
				}
			}
			continue
		case f.flag:
			if fv.Bool() {
				if err := put(f.name, Of(Flag{})); err != nil {
					return err
				}
			}
			continue
		case f.omitEmpty && fv.IsZero(), fv.Kind() == reflect.Pointer && fv.IsNil():
			continue
		}
		v, err := marshalValue(fv, depth)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if err := put(f.name, v); err != nil {
			return err
		}
	}
	return nil
}

func marshalValue(fv reflect.Value, depth int) (Value, error) {
	if v, ok := ValueOf(fv.Interface()); ok {
		return v, nil
	}
	switch fv.Kind() {
	case reflect.Pointer:
		if fv.IsNil() {
			return Value{}, fmt.Errorf("nil %v: %w", fv.Type(), ErrInvalid)
		}
		return marshalValue(fv.Elem(), depth)
	case reflect.Struct:
		l := &List{}
		return Of(l), marshalStruct(l, fv, depth+1)
	case reflect.Map:
		return marshalMap(fv, depth)
	case reflect.Slice:
		if e := fv.Type().Elem(); e.Kind() != reflect.Struct {
			break
		}
		ls := make([]*List, fv.Len())
		for i := range ls {
			ls[i] = &List{}
			if err := marshalStruct(ls[i], fv.Index(i), depth+1); err != nil {
				return Value{}, err
			}
		}
		return Of(ls), nil
	}
	// A named type of a basic kind goes as its kind.
	if t, ok := basic[fv.Kind()]; ok {
		return marshalValue(fv.Convert(t), depth)
	}
	return Value{}, fmt.Errorf("type %v: %w", fv.Type(), ErrInvalid)
}

var basic = map[reflect.Kind]reflect.Type{
	reflect.Bool: reflect.TypeFor[bool](), reflect.String: reflect.TypeFor[string](),
	reflect.Int8: reflect.TypeFor[int8](), reflect.Int16: reflect.TypeFor[int16](),
	reflect.Int32: reflect.TypeFor[int32](), reflect.Int64: reflect.TypeFor[int64](),
	reflect.Uint8: reflect.TypeFor[uint8](), reflect.Uint16: reflect.TypeFor[uint16](),
	reflect.Uint32: reflect.TypeFor[uint32](), reflect.Uint64: reflect.TypeFor[uint64](),
	reflect.Float64: reflect.TypeFor[float64](),
}

func marshalMap(fv reflect.Value, depth int) (Value, error) {
	if fv.Type().Key().Kind() != reflect.String {
		return Value{}, fmt.Errorf("type %v: %w", fv.Type(), ErrInvalid)
	}
	l := &List{}
	for _, k := range sortedKeys(fv) {
		v, err := marshalValue(fv.MapIndex(k), depth+1)
		if err != nil {
			return v, fmt.Errorf("%s: %w", k, err)
		}
		l.add(Pair{k.String(), v})
	}
	return Of(l), nil
}

// Unmarshal fills the struct that v points to from the list, by the tags of
// Marshal. A pair that no field names is ignored unless a rest field takes it;
// a field without its pair keeps its value. An integer of another width is
// taken if its value fits, anything else of another type is ErrType.
func (l *List) Unmarshal(v any) error {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.IsNil() || rv.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("nvlist: unmarshal into %T: not a pointer to a struct: %w", v, ErrInvalid)
	}
	if err := l.unmarshalStruct(rv.Elem()); err != nil {
		return fmt.Errorf("nvlist: unmarshal into %T: %w", v, err)
	}
	return nil
}

func (l *List) unmarshalStruct(rv reflect.Value) error {
	named := map[string]bool{}
	var rest reflect.Value
	if err := l.unmarshalFields(rv, named, &rest); err != nil || !rest.IsValid() {
		return err
	}
	r := &List{}
	for name, v := range l.All() {
		if !named[name] {
			r.add(Pair{name, v})
		}
	}
	rest.Set(reflect.ValueOf(r))
	return nil
}

func (l *List) unmarshalFields(rv reflect.Value, named map[string]bool, rest *reflect.Value) error {
	for _, f := range fields(rv.Type()) {
		fv := rv.Field(f.index)
		if f.inline {
			if err := l.unmarshalFields(fv, named, rest); err != nil {
				return err
			}
			continue
		}
		if f.rest {
			if !rest.IsValid() {
				*rest = fv
			}
			continue
		}
		named[f.name] = true
		v, ok := l.Value(f.name)
		if f.flag {
			fv.SetBool(ok)
			continue
		}
		if !ok {
			continue
		}
		if err := unmarshalValue(fv, v); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return nil
}

func unmarshalValue(fv reflect.Value, v Value) error {
	if a := reflect.ValueOf(v.Any()); a.IsValid() && a.Type() == fv.Type() {
		fv.Set(a)
		return nil
	}
	mismatch := func() error { return fmt.Errorf("%v into %v: %w", v.typ, fv.Type(), ErrType) }
	switch fv.Kind() {
	case reflect.Pointer:
		p := reflect.New(fv.Type().Elem())
		if err := unmarshalValue(p.Elem(), v); err != nil {
			return err
		}
		fv.Set(p)
		return nil
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if u, ok := v.Uint(); ok && !fv.OverflowUint(u) {
			fv.SetUint(u)
			return nil
		}
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if i, ok := v.Int(); ok && !fv.OverflowInt(i) {
			fv.SetInt(i)
			return nil
		}
	case reflect.Float64:
		if v.typ == TypeFloat64 {
			fv.SetFloat(math.Float64frombits(v.num))
			return nil
		}
	case reflect.String:
		if s, ok := v.Str(); ok {
			fv.SetString(s)
			return nil
		}
	case reflect.Bool:
		if v.typ == TypeBool || v.typ == TypeFlag {
			fv.SetBool(v.typ == TypeFlag || v.num != 0)
			return nil
		}
	case reflect.Struct:
		if l := v.List(); l != nil {
			return l.unmarshalStruct(fv)
		}
	case reflect.Slice:
		if ls := v.Lists(); ls != nil && fv.Type().Elem().Kind() == reflect.Struct {
			s := reflect.MakeSlice(fv.Type(), len(ls), len(ls))
			for i, l := range ls {
				if err := l.unmarshalStruct(s.Index(i)); err != nil {
					return err
				}
			}
			fv.Set(s)
			return nil
		}
	case reflect.Map:
		if l := v.List(); l != nil && fv.Type().Key().Kind() == reflect.String {
			return unmarshalMap(fv, l)
		}
	}
	return mismatch()
}

func unmarshalMap(fv reflect.Value, l *List) error {
	m := reflect.MakeMapWithSize(fv.Type(), l.Len())
	for name, v := range l.All() {
		e := reflect.New(fv.Type().Elem()).Elem()
		if err := unmarshalValue(e, v); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		m.SetMapIndex(reflect.ValueOf(name).Convert(fv.Type().Key()), e)
	}
	fv.Set(m)
	return nil
}

func sortedKeys(m reflect.Value) []reflect.Value {
	keys := m.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	return keys
}
