// SPDX-License-Identifier: BSD-2-Clause

package nvlist

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// The XDR encoding (RFC 4506 units): a pair is {encoded size, native size,
// name, type, nelem, data}, everything padded to 4 and big endian. A nested
// list stands inside its pair with a header of its own.
const (
	xdrPairMin    = 5 * 4
	xdrEmptyCount = 4 // see checkXDRSizes
)

func align4(n int) int { return (n + 3) &^ 3 }

func be32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }
func be64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

func xdrListHeader(b []byte, l *List) []byte { return be32(be32(b, version), l.flag()) }

func xdrString(b []byte, s string) []byte {
	b = append(be32(b, uint32(len(s))), s...)
	return zeros(b, align4(len(s))-len(s))
}

func xdrPair(b []byte, p Pair, depth int) ([]byte, error) {
	native, err := nativeSize(p)
	if err != nil {
		return nil, err
	}
	start := len(b)
	v := p.Value
	n := v.nelem()
	b = be32(be32(b, 0), uint32(native))
	b = xdrString(b, p.Name)
	b = be32(be32(b, uint32(v.typ)), uint32(n))
	switch r := v.ref.(type) {
	case nil:
		switch {
		case v.typ == TypeString:
			b = xdrString(b, v.str)
		case v.typ == TypeFlag:
		case elemSize(v.typ) == 8:
			b = be64(b, v.num)
		default:
			b = be32(b, uint32(v.num)&^(^uint32(0)<<(8*elemSize(v.typ))))
		}
	case *List:
		b, err = xdrNested(b, r, depth+1)
	case []*List:
		for _, l := range r {
			if b, err = xdrNested(b, l, depth+1); err != nil {
				break
			}
		}
	case []string:
		for _, s := range r {
			b = xdrString(b, s)
		}
	case []byte:
		b = zeros(append(b, r...), align4(len(r))-len(r))
	default:
		// An empty array has no data at all, not even its count.
		if n > 0 {
			b = xdrArray(be32(b, uint32(n)), v)
		}
	}
	if err != nil {
		return nil, err
	}
	if len(b)-start > maxSize {
		return nil, fmt.Errorf("nvlist: encode %q: beyond 2 GiB: %w", p.Name, ErrInvalid)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b, nil
}

func xdrNested(b []byte, l *List, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nvlist: encode: %w", ErrDepth)
	}
	b = xdrListHeader(b, l)
	var err error
	for i := range l.Len() {
		if b, err = xdrPair(b, l.pairs[i], depth); err != nil {
			return nil, err
		}
	}
	return appendEnd(b, XDR), nil
}

func xdrArray(b []byte, v Value) []byte {
	switch r := v.ref.(type) {
	case Uint8s:
		for _, e := range r {
			b = be32(b, uint32(e))
		}
	case []int8:
		for _, e := range r {
			b = be32(b, uint32(uint8(e)))
		}
	case []bool:
		for _, e := range r {
			b = be32(b, b2u(e))
		}
	case []int16:
		for _, e := range r {
			b = be32(b, uint32(uint16(e)))
		}
	case []uint16:
		for _, e := range r {
			b = be32(b, uint32(e))
		}
	case []int32:
		for _, e := range r {
			b = be32(b, uint32(e))
		}
	case []uint32:
		for _, e := range r {
			b = be32(b, e)
		}
	case []int64:
		for _, e := range r {
			b = be64(b, uint64(e))
		}
	case []uint64:
		for _, e := range r {
			b = be64(b, e)
		}
	}
	return b
}

func be32at(s string, i int) uint32 {
	return uint32(s[i])<<24 | uint32(s[i+1])<<16 | uint32(s[i+2])<<8 | uint32(s[i+3])
}

func (d *decoder) be32() (uint32, error) {
	s, err := d.take(4)
	if err != nil {
		return 0, err
	}
	return be32at(s, 0), nil
}

func (d *decoder) be64() (uint64, error) {
	s, err := d.take(8)
	if err != nil {
		return 0, err
	}
	return uint64(be32at(s, 0))<<32 | uint64(be32at(s, 4)), nil
}

func (d *decoder) xdrListHeader(l *List) error {
	v, err := d.be32()
	if err != nil {
		return err
	}
	flags, err := d.be32()
	if err != nil {
		return err
	}
	return l.setHeader(v, flags)
}

func (d *decoder) xdrString() (string, error) {
	n, err := d.be32()
	if err != nil {
		return "", err
	}
	if n > maxSize-4 {
		return "", d.short(int64(n))
	}
	s, err := d.take(align4(int(n)))
	if err != nil {
		return "", err
	}
	s = s[:n]
	if strings.IndexByte(s, 0) >= 0 {
		return "", fmt.Errorf("NUL inside a string: %w", ErrSyntax)
	}
	return s, nil
}

func (d *decoder) xdrPair(depth int) (p Pair, last bool, err error) {
	start, end, empty := d.off, d.end, d.empty
	encLen, err := d.be32()
	if err != nil {
		return p, false, err
	}
	decLen, err := d.be32()
	if err != nil {
		return p, false, err
	}
	if encLen == 0 && decLen == 0 {
		return p, true, nil
	}
	room := int64(end - start)
	if encLen < xdrPairMin || encLen > maxSize || int64(encLen) > room+room*xdrEmptyCount/xdrPairMin {
		return p, false, fmt.Errorf("pair of %d bytes: %w", encLen, d.short(int64(encLen)))
	}
	d.end = start + int(min(room, int64(encLen)))
	p, err = d.xdrPairBody(depth)
	if err == nil {
		err = checkXDRSizes(p, d.off-start, (d.empty-empty)*xdrEmptyCount, encLen, decLen)
	}
	d.end = end
	return p, false, inPair(p.Name, err)
}

// xdrPairBody reads a pair behind its sizes. What is in the pair ends where it ends.
func (d *decoder) xdrPairBody(depth int) (p Pair, err error) {
	if p.Name, err = d.xdrString(); err != nil {
		return p, err
	}
	if len(p.Name) >= math.MaxInt16 {
		return p, fmt.Errorf("name of %d bytes: %w", len(p.Name), ErrSyntax)
	}
	t, err := d.be32()
	if err != nil {
		return p, err
	}
	nelem, err := d.be32()
	if err != nil {
		return p, err
	}
	typ := Type(t)
	if err := checkCount(typ, nelem); err != nil {
		return p, err
	}
	if nelem == 0 && isArray(typ) {
		d.empty++
	}
	p.Value, err = d.xdrValue(typ, int(nelem), depth)
	return p, err
}

// checkXDRSizes holds the two sizes that a pair claims against what it was.
// The kernel counts the 4 bytes of an empty array's count without writing
// them, in the pair and in every pair around it: it may claim slack bytes more.
func checkXDRSizes(p Pair, got, slack int, encLen, decLen uint32) error {
	native, err := nativeSize(p)
	if err != nil {
		return err
	}
	more := int(encLen) - got
	if more < 0 || more > slack || more%xdrEmptyCount != 0 || decLen > maxSize || int(decLen) < native {
		return fmt.Errorf("sizes %d and %d, want %d and %d: %w", encLen, decLen, got, native, ErrSyntax)
	}
	return nil
}

// firstElems is the room that an array of strings or lists starts with.
const firstElems = 8

// roomFor makes room for one more of the n elements that were promised. What a
// promise allocates is never more than twice what was read of it.
func roomFor[E any](s []E, n int) []E {
	if len(s) < cap(s) {
		return s
	}
	return append(make([]E, 0, min(n, max(firstElems, 2*len(s)))), s...)
}

func (d *decoder) xdrValue(t Type, n, depth int) (Value, error) {
	v := Value{typ: t}
	room := d.end - d.off
	var err error
	switch t {
	case TypeFlag:
	case TypeString:
		v.str, err = d.xdrString()
	case TypeStrings:
		if n > room/4 {
			return v, d.short(4 * int64(n))
		}
		out := []string{}
		for len(out) < n && err == nil {
			var s string
			s, err = d.xdrString()
			out = append(roomFor(out, n), s)
		}
		v.ref = out
	case TypeList:
		l := d.list()
		v.ref = l
		err = d.xdrNested(l, depth)
	case TypeLists:
		if n > room/16 {
			return v, d.short(16 * int64(n))
		}
		ls := []*List{}
		for len(ls) < n && err == nil {
			l := d.list()
			ls = append(roomFor(ls, n), l)
			err = d.xdrNested(l, depth)
		}
		v.ref = ls
	case TypeBytes:
		if n > room {
			return v, d.short(int64(n))
		}
		var s string
		if s, err = d.take(align4(n)); err == nil {
			return array(t, n, nil, s)
		}
	default:
		return d.xdrNumbers(t, n)
	}
	return v, err
}

func (d *decoder) xdrNested(l *List, depth int) error {
	if err := d.xdrListHeader(l); err != nil {
		return err
	}
	return d.pairs(l, depth+1)
}

func (d *decoder) xdrNumbers(t Type, n int) (Value, error) {
	wide := elemSize(t) == 8
	if !isArray(t) {
		var raw uint64
		var err error
		if wide {
			raw, err = d.be64()
		} else {
			var w uint32
			w, err = d.be32()
			raw, err = narrow(t, w, err)
		}
		if err != nil {
			return Value{}, err
		}
		return scalar(Value{typ: t}, raw)
	}
	if n == 0 {
		return array(t, 0, nil, "")
	}
	count, err := d.be32()
	if err != nil {
		return Value{}, err
	}
	unit := 4
	if wide {
		unit = 8
	}
	if int64(count) != int64(n) {
		return Value{}, fmt.Errorf("array of %d, counted %d: %w", n, count, ErrSyntax)
	}
	if n > (d.end-d.off)/unit {
		return Value{}, d.short(int64(n) * int64(unit))
	}
	s, err := d.take(n * unit)
	if err != nil {
		return Value{}, err
	}
	v, aerr := array(t, n, func(i int) uint64 {
		if wide {
			return uint64(be32at(s, 8*i))<<32 | uint64(be32at(s, 8*i+4))
		}
		w, e := narrow(t, be32at(s, 4*i), nil)
		if e != nil {
			err = e
		}
		return w
	}, "")
	if aerr != nil {
		err = aerr
	}
	return v, err
}

// narrow takes a 4-byte unit as the smaller type that it holds; what does not
// fit is an error. Small signed numbers appear sign-extended or not, as the
// writer's C library has it; ours are not, which every kernel accepts.
func narrow(t Type, w uint32, err error) (uint64, error) {
	if err != nil {
		return 0, err
	}
	i := int32(w)
	var lo, hi int32
	switch t {
	case TypeByte, TypeInt8, TypeUint8, TypeInt8s, TypeUint8s:
		lo, hi = math.MinInt8, math.MaxUint8
		w = uint32(uint8(w))
	case TypeInt16, TypeInt16s:
		lo, hi = math.MinInt16, math.MaxUint16
		w = uint32(uint16(w))
	case TypeUint16, TypeUint16s:
		lo, hi = 0, math.MaxUint16
	default:
		return uint64(w), nil
	}
	if i < lo || i > hi {
		return 0, fmt.Errorf("%d as %v: %w", i, t, ErrSyntax)
	}
	return uint64(w), nil
}
