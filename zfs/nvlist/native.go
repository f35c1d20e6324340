// SPDX-License-Identifier: BSD-2-Clause

package nvlist

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// The native encoding: nvpair_t and nvlist_t as they lie in memory, packed.
// A pair is {i32 size, i16 name size, i16 0, i32 nelem, i32 type, name, pad to
// 8, value, pad to 8}, where the size leaves out what nested lists append.
const (
	nativePairHeader = 16
	nativeListLen    = 24 // nvlist_t
)

func align8(n int) int { return (n + 7) &^ 7 }

func le32(b []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(b, v) }
func le64(b []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(b, v) }
func zeros(b []byte, n int) []byte   { return append(b, make([]byte, n)...) }

// elemSize is the width of one element of a fixed-width type in the native encoding, 0 for the others.
func elemSize(t Type) int {
	switch t {
	case TypeByte, TypeInt8, TypeUint8, TypeBytes, TypeInt8s, TypeUint8s:
		return 1
	case TypeInt16, TypeUint16, TypeInt16s, TypeUint16s:
		return 2
	case TypeInt32, TypeUint32, TypeBool, TypeInt32s, TypeUint32s, TypeBools:
		return 4
	case TypeInt64, TypeUint64, TypeDuration, TypeFloat64, TypeInt64s, TypeUint64s:
		return 8
	}
	return 0
}

func isArray(t Type) bool {
	switch t {
	case TypeBytes, TypeInt16s, TypeUint16s, TypeInt32s, TypeUint32s, TypeInt64s, TypeUint64s, TypeStrings,
		TypeLists, TypeBools, TypeInt8s, TypeUint8s:
		return true
	}
	return false
}

// nativeSize is the size of a pair without what follows it. It is also the decode_len of XDR.
func nativeSize(p Pair) (int, error) {
	if err := checkPair(p); err != nil {
		return 0, err
	}
	v := p.Value
	n := v.nelem() * elemSize(v.typ)
	switch v.typ {
	case TypeString:
		n = len(v.str) + 1
	case TypeStrings:
		for _, s := range v.ref.([]string) {
			n += 8 + len(s) + 1
		}
	case TypeList:
		n = nativeListLen
	case TypeLists:
		n = v.nelem() * (8 + nativeListLen)
	}
	if n > maxSize-math.MaxUint16 {
		return 0, fmt.Errorf("nvlist: encode %q: %d bytes: %w", p.Name, n, ErrInvalid)
	}
	return align8(nativePairHeader+len(p.Name)+1) + align8(n), nil
}

func nativePair(b []byte, p Pair, depth int) ([]byte, error) {
	size, err := nativeSize(p)
	if err != nil {
		return nil, err
	}
	start := len(b)
	v := p.Value
	b = le32(b, uint32(size))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(p.Name)+1))
	b = append(b, 0, 0)
	b = le32(b, uint32(v.nelem()))
	b = le32(b, uint32(v.typ))
	b = append(append(b, p.Name...), 0)
	b = zeros(b, align8(len(b)-start)-(len(b)-start))
	switch r := v.ref.(type) {
	case nil:
		if v.typ == TypeString {
			b = append(append(b, v.str...), 0)
		} else {
			var raw [8]byte
			binary.LittleEndian.PutUint64(raw[:], v.num)
			b = append(b, raw[:elemSize(v.typ)]...)
		}
	case *List:
		b = nativeEmbedded(b, r)
	case []*List:
		b = zeros(b, 8*len(r))
		for _, l := range r {
			b = nativeEmbedded(b, l)
		}
	case []string:
		b = zeros(b, 8*len(r))
		for _, s := range r {
			b = append(append(b, s...), 0)
		}
	default:
		b = nativeArray(b, v)
	}
	b = zeros(b, size-(len(b)-start))
	switch r := v.ref.(type) {
	case *List:
		return nativeBody(b, r, depth+1)
	case []*List:
		for _, l := range r {
			if b, err = nativeBody(b, l, depth+1); err != nil {
				return nil, err
			}
		}
	}
	return b, nil
}

func nativeEmbedded(b []byte, l *List) []byte {
	return zeros(le32(le32(b, version), l.flag()), nativeListLen-8)
}

func nativeBody(b []byte, l *List, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nvlist: encode: %w", ErrDepth)
	}
	var err error
	for i := range l.Len() {
		if b, err = nativePair(b, l.pairs[i], depth); err != nil {
			return nil, err
		}
		if len(b) > maxSize {
			return nil, fmt.Errorf("nvlist: encode: beyond 2 GiB: %w", ErrInvalid)
		}
	}
	return le32(b, 0), nil
}

func nativeArray(b []byte, v Value) []byte {
	switch r := v.ref.(type) {
	case []byte:
		return append(b, r...)
	case Uint8s:
		return append(b, r...)
	case []int8:
		for _, e := range r {
			b = append(b, byte(e))
		}
	case []bool:
		for _, e := range r {
			b = le32(b, b2u(e))
		}
	case []int16:
		for _, e := range r {
			b = binary.LittleEndian.AppendUint16(b, uint16(e))
		}
	case []uint16:
		for _, e := range r {
			b = binary.LittleEndian.AppendUint16(b, e)
		}
	case []int32:
		for _, e := range r {
			b = le32(b, uint32(e))
		}
	case []uint32:
		for _, e := range r {
			b = le32(b, e)
		}
	case []int64:
		for _, e := range r {
			b = le64(b, uint64(e))
		}
	case []uint64:
		for _, e := range r {
			b = le64(b, e)
		}
	}
	return b
}

func b2u(v bool) uint32 {
	if v {
		return 1
	}
	return 0
}

func le16at(s string, i int) uint16 { return uint16(s[i]) | uint16(s[i+1])<<8 }
func le32at(s string, i int) uint32 {
	return uint32(le16at(s, i)) | uint32(le16at(s, i+2))<<16
}
func le64at(s string, i int) uint64 {
	return uint64(le32at(s, i)) | uint64(le32at(s, i+4))<<32
}

func (d *decoder) u32() (uint32, error) {
	s, err := d.take(4)
	if err != nil {
		return 0, err
	}
	return le32at(s, 0), nil
}

// nativeHeader is what a pair says of itself, and value what lies in the pair behind it.
type nativeHeader struct {
	name  string
	typ   Type
	nelem uint32
	value string
}

func (d *decoder) nativeHeader() (h nativeHeader, last bool, err error) {
	size, err := d.u32()
	if err != nil || size == 0 {
		return h, true, err
	}
	if size%8 != 0 || size < nativePairHeader+8 {
		return h, false, fmt.Errorf("pair size %d: %w", size, ErrSyntax)
	}
	if size > maxSize {
		return h, false, d.short(int64(size))
	}
	const before = 4 // the size stands before s
	s, err := d.take(int(size) - before)
	if err != nil {
		return h, false, err
	}
	nameLen := int(int16(le16at(s, 4-before))) - 1
	valOff := align8(nativePairHeader+nameLen+1) - before
	if nameLen < 0 || le16at(s, 6-before) != 0 || valOff > len(s) || s[nativePairHeader-before+nameLen] != 0 {
		return h, false, fmt.Errorf("name size %d in a pair of %d: %w", nameLen+1, size, ErrSyntax)
	}
	h = nativeHeader{s[nativePairHeader-before:][:nameLen], Type(le32at(s, 12-before)), le32at(s, 8-before), s[valOff:]}
	if strings.IndexByte(h.name, 0) >= 0 {
		return h, false, fmt.Errorf("NUL inside a name: %w", ErrSyntax)
	}
	if err := checkCount(h.typ, h.nelem); err != nil {
		return h, false, inPair(h.name, err)
	}
	return h, false, nil
}

func (d *decoder) nativePair(depth int) (p Pair, last bool, err error) {
	h, last, err := d.nativeHeader()
	if err != nil || last {
		return p, last, err
	}
	if !d.wanted(h.name, depth) {
		err = d.nativeSkip(h, depth)
	} else {
		p.Name = h.name
		p.Value, err = d.nativeValue(h.typ, h.nelem, h.value, depth)
	}
	return p, false, inPair(h.name, err)
}

// nativeSkip steps over the lists that lie behind a pair.
func (d *decoder) nativeSkip(h nativeHeader, depth int) error {
	if h.typ != TypeList && h.typ != TypeLists {
		return nil
	}
	if depth >= maxDepth {
		return ErrDepth
	}
	for range h.nelem {
		for {
			in, last, err := d.nativeHeader()
			if err == nil && !last {
				err = d.nativeSkip(in, depth+1)
			}
			if err != nil {
				return err
			}
			if last {
				break
			}
		}
	}
	return nil
}

func checkCount(t Type, nelem uint32) error {
	want := uint32(1)
	if t == TypeFlag {
		want = 0
	}
	if t <= 0 || t > typeMax || nelem > maxSize || !isArray(t) && nelem != want {
		return fmt.Errorf("%v with %d elements: %w", t, nelem, ErrSyntax)
	}
	return nil
}

// nativeValue reads a value from s, the padded rest of its pair; nested lists lie behind the pair.
func (d *decoder) nativeValue(t Type, nelem uint32, s string, depth int) (Value, error) {
	n := int(nelem)
	v := Value{typ: t}
	exact := func(n int) error {
		if len(s) != align8(n) {
			return fmt.Errorf("%v of %d bytes in %d: %w", t, n, len(s), ErrSyntax)
		}
		return nil
	}
	switch t {
	case TypeString:
		i := strings.IndexByte(s, 0)
		if i < 0 {
			return v, fmt.Errorf("string without NUL: %w", ErrSyntax)
		}
		v.str = s[:i]
		return v, exact(i + 1)
	case TypeStrings:
		return v, nativeStrings(&v, n, s, exact)
	case TypeList:
		if err := exact(nativeListLen); err != nil {
			return v, err
		}
		l := d.list()
		v.ref = l
		return v, d.nativeNested(l, s, depth)
	case TypeLists:
		// Every element needs its end marker behind the pair as well, so that
		// the check on the pair bounds what is allocated here.
		if err := exact(n * (8 + nativeListLen)); err != nil {
			return v, err
		}
		ls := make([]*List, n)
		v.ref = ls
		for i := range ls {
			ls[i] = d.list()
			if err := d.nativeNested(ls[i], s[8*n+nativeListLen*i:], depth); err != nil {
				return v, err
			}
		}
		return v, nil
	}
	es := elemSize(t)
	if err := exact(n * es); err != nil {
		return v, err
	}
	if !isArray(t) {
		return scalar(v, nativeNum(es, s))
	}
	return array(t, n, func(i int) uint64 { return nativeNum(es, s[i*es:]) }, s)
}

func (d *decoder) nativeNested(l *List, s string, depth int) error {
	if err := l.setHeader(le32at(s, 0), le32at(s, 4)); err != nil {
		return err
	}
	return d.pairs(l, depth+1)
}

func nativeStrings(v *Value, n int, s string, exact func(int) error) error {
	if len(s)/9 < n {
		return fmt.Errorf("%d strings in %d bytes: %w", n, len(s), ErrSyntax)
	}
	out := make([]string, n)
	off := 8 * n
	for i := range out {
		j := strings.IndexByte(s[off:], 0)
		if j < 0 {
			return fmt.Errorf("string without NUL: %w", ErrSyntax)
		}
		out[i] = s[off : off+j]
		off += j + 1
	}
	v.ref = out
	return exact(off)
}

func nativeNum(size int, s string) uint64 {
	switch size {
	case 1:
		return uint64(s[0])
	case 2:
		return uint64(le16at(s, 0))
	case 4:
		return uint64(le32at(s, 0))
	case 8:
		return le64at(s, 0)
	}
	return 0
}

// scalar stores raw, whose high bits beyond the type's width are zero, in the form that Value keeps.
func scalar(v Value, raw uint64) (Value, error) {
	v.num = raw
	switch v.typ {
	case TypeBool:
		if raw > 1 {
			return v, fmt.Errorf("boolean value %d: %w", raw, ErrSyntax)
		}
	case TypeInt8:
		v.num = uint64(int8(raw))
	case TypeInt16:
		v.num = uint64(int16(raw))
	case TypeInt32:
		v.num = uint64(int32(raw))
	}
	return v, nil
}

func fill[E any](n int, conv func(int) E) []E {
	out := make([]E, n)
	for i := range out {
		out[i] = conv(i)
	}
	return out
}

// array builds the slice of a fixed-width array type from its raw elements; raw holds single bytes.
func array(t Type, n int, at func(int) uint64, raw string) (Value, error) {
	v := Value{typ: t}
	switch t {
	case TypeBytes:
		v.ref = []byte(raw[:n])
	case TypeUint8s:
		v.ref = Uint8s(fill(n, func(i int) uint8 { return uint8(at(i)) }))
	case TypeInt8s:
		v.ref = fill(n, func(i int) int8 { return int8(at(i)) })
	case TypeInt16s:
		v.ref = fill(n, func(i int) int16 { return int16(at(i)) })
	case TypeUint16s:
		v.ref = fill(n, func(i int) uint16 { return uint16(at(i)) })
	case TypeInt32s:
		v.ref = fill(n, func(i int) int32 { return int32(at(i)) })
	case TypeUint32s:
		v.ref = fill(n, func(i int) uint32 { return uint32(at(i)) })
	case TypeInt64s:
		v.ref = fill(n, func(i int) int64 { return int64(at(i)) })
	case TypeUint64s:
		v.ref = fill(n, at)
	case TypeBools:
		bad := false
		v.ref = fill(n, func(i int) bool { bad = bad || at(i) > 1; return at(i) == 1 })
		if bad {
			return v, fmt.Errorf("boolean value neither 0 nor 1: %w", ErrSyntax)
		}
	}
	return v, nil
}
