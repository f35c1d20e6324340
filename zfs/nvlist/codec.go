// SPDX-License-Identifier: BSD-2-Clause

package nvlist

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"strings"
)

// Encoding is how a list is laid out in bytes (NV_ENCODE_*).
type Encoding byte

// The two encodings. The kernel reads both and answers in Native; a vdev label and a pool's cache file are in XDR.
const (
	Native Encoding = 0
	XDR    Encoding = 1
)

const (
	headerLen    = 4
	littleEndian = 1
	version      = 0

	// maxDepth bounds nesting in both directions. The kernel stops at 20
	// (nvpair_max_recursion), user space libraries at 100.
	maxDepth = 100
	maxSize  = math.MaxInt32
)

// What a list or its encoding can be at fault with; every error of this
// package but that of an io.Reader or io.Writer wraps one of them.
var (
	ErrSyntax    = errors.New("malformed nvlist")
	ErrTruncated = fmt.Errorf("truncated: %w", ErrSyntax)
	ErrTrailing  = fmt.Errorf("bytes after the end: %w", ErrSyntax)
	ErrDuplicate = fmt.Errorf("duplicate name: %w", ErrSyntax)
	ErrDepth     = fmt.Errorf("nested too deep: %w", ErrSyntax)
	ErrTooLarge  = errors.New("pair larger than allowed")
	ErrEncoding  = errors.New("unknown nvlist encoding")
	ErrInvalid   = errors.New("value cannot be encoded")
	ErrMissing   = errors.New("no such name")
	ErrType      = errors.New("wrong type")
)

// Encode encodes the list. It fails with ErrInvalid on a NUL byte in a name or
// string, a name of 32 KiB or more, an invalid Value, or a result beyond 2 GiB.
func (l *List) Encode(enc Encoding) ([]byte, error) { return l.AppendEncode(nil, enc) }

// AppendEncode encodes the list at the end of dst.
func (l *List) AppendEncode(dst []byte, enc Encoding) ([]byte, error) {
	start := len(dst)
	dst, err := appendHeader(dst, enc, l)
	if err != nil {
		return nil, err
	}
	for i := range l.Len() {
		if dst, err = appendPair(dst, enc, l.pairs[i], 1); err != nil {
			return nil, err
		}
		if len(dst)-start > maxSize {
			return nil, fmt.Errorf("nvlist: encode: beyond 2 GiB: %w", ErrInvalid)
		}
	}
	return appendEnd(dst, enc), nil
}

func appendHeader(dst []byte, enc Encoding, l *List) ([]byte, error) {
	if enc > XDR {
		return nil, fmt.Errorf("nvlist: encode: encoding %d: %w", enc, ErrEncoding)
	}
	dst = append(dst, byte(enc), littleEndian, 0, 0)
	if enc == XDR {
		return xdrListHeader(dst, l), nil
	}
	return le32(le32(dst, version), l.flag()), nil
}

func appendPair(dst []byte, enc Encoding, p Pair, depth int) ([]byte, error) {
	if enc == XDR {
		return xdrPair(dst, p, depth)
	}
	return nativePair(dst, p, depth)
}

func appendEnd(dst []byte, enc Encoding) []byte {
	if enc == XDR {
		return append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	return append(dst, 0, 0, 0, 0)
}

func (l *List) flag() uint32 {
	if l == nil || l.flags == 0 && !l.plain {
		return UniqueName
	}
	return l.flags
}

func checkPair(p Pair) error {
	if len(p.Name) >= math.MaxInt16 || strings.IndexByte(p.Name, 0) >= 0 {
		return fmt.Errorf("nvlist: encode %.40q: name too long or with a NUL: %w", p.Name, ErrInvalid)
	}
	bad := p.Value.typ <= 0 || p.Value.typ > typeMax
	switch r := p.Value.ref.(type) {
	case nil:
		bad = bad || strings.IndexByte(p.Value.str, 0) >= 0
	case []string:
		for _, s := range r {
			bad = bad || strings.IndexByte(s, 0) >= 0
		}
	}
	if bad {
		return fmt.Errorf("nvlist: encode %q: no value, or a string with a NUL: %w", p.Name, ErrInvalid)
	}
	return nil
}

// decoder walks an encoded list. Strings are cut from s, a copy of the whole
// input, or read from stream.
type decoder struct {
	s      string
	stream *stream
	off    int
	end    int
	xdr    bool

	empty int // in XDR: empty arrays so far, see checkXDRSizes

	want  func(name string) bool // of the pairs at the top; nil for all
	spare []List                 // for lists within lists, of which a kernel's replies have many small ones
}

// list gives an empty list. A few are made at a time, so that what is kept of a
// reply holds no more than its neighbours' headers.
func (d *decoder) list() *List {
	if len(d.spare) == 0 {
		d.spare = make([]List, 8)
	}
	l := &d.spare[0]
	d.spare = d.spare[1:]
	return l
}

// Decode decodes a whole encoded list, in either encoding. Nothing may follow
// its end, and no name may be there twice, whatever the list's flags say.
func Decode(b []byte) (*List, error) {
	l, n, err := DecodePrefix(b)
	if err == nil && n != len(b) {
		return nil, fmt.Errorf("nvlist: decode: %d of %d bytes used: %w", n, len(b), ErrTrailing)
	}
	return l, err
}

// DecodeSome is Decode of only those pairs at the top whose names want reports, of all if it is nil.
// The names of the others may be there twice. In the native encoding they are
// stepped over by the sizes that they give, and what is in them may be malformed.
func DecodeSome(b []byte, want func(name string) bool) (*List, error) {
	d, l, err := newDecoder(b)
	d.want = want
	if err == nil {
		err = d.pairs(l, 1)
	}
	if err == nil && d.off != len(b) {
		err = ErrTrailing
	}
	if err != nil {
		return nil, d.wrap(err)
	}
	return l, nil
}

// DecodePrefix decodes an encoded list at the start of b and gives the number of bytes it took.
func DecodePrefix(b []byte) (*List, int, error) {
	d, l, err := newDecoder(b)
	if err == nil {
		err = d.pairs(l, 1)
	}
	if err != nil {
		return nil, 0, d.wrap(err)
	}
	return l, d.off, nil
}

// Walk decodes the pairs of an encoded list one by one, so that a large list
// never stands in memory as a whole. It does not look for duplicate names at
// the top. An error ends the walk.
func Walk(b []byte) iter.Seq2[Pair, error] {
	return func(yield func(Pair, error) bool) {
		d, _, err := newDecoder(b)
		if err == nil {
			err = d.walk(yield)
		}
		if err != nil {
			yield(Pair{}, d.wrap(err))
		}
	}
}

// walk gives no error when yield wanted no more.
func (d *decoder) walk(yield func(Pair, error) bool) error {
	for {
		if d.stream != nil {
			d.stream.next(d)
		}
		p, last, err := d.pair(1)
		switch {
		case err != nil:
			return err
		case last && d.stream == nil && d.off != d.end:
			return ErrTrailing
		case last || !yield(p, nil):
			return nil
		}
	}
}

func newDecoder(b []byte) (*decoder, *List, error) {
	d := &decoder{}
	if len(b) > maxSize {
		return d, nil, fmt.Errorf("%d bytes: %w", len(b), ErrSyntax)
	}
	d.s, d.end = string(b), len(b)
	l := &List{}
	return d, l, d.header(l)
}

func (d *decoder) header(l *List) error {
	h, err := d.take(headerLen)
	if err != nil {
		return err
	}
	switch {
	case h[0] == byte(XDR) && h[1] <= littleEndian:
		d.xdr = true
		return d.xdrListHeader(l)
	case h[0] == byte(Native) && h[1] == littleEndian:
	default:
		return fmt.Errorf("header % x: %w", h, ErrEncoding)
	}
	v, err := d.u32()
	if err != nil {
		return err
	}
	flags, err := d.u32()
	if err != nil {
		return err
	}
	return l.setHeader(v, flags)
}

func (l *List) setHeader(v, flags uint32) error {
	if v != version || flags > UniqueName|UniqueNameType {
		return fmt.Errorf("list version %d flags %#x: %w", v, flags, ErrSyntax)
	}
	l.flags, l.plain = flags, flags == 0
	return nil
}

func (d *decoder) wrap(err error) error {
	return fmt.Errorf("nvlist: decode at byte %d: %w", d.off, err)
}

// pairError says in which pair err is. Its text is made when it is asked for,
// and not at each of the levels that it passes.
type pairError struct {
	name string
	err  error
}

func inPair(name string, err error) error {
	if err == nil {
		return nil
	}
	return &pairError{name, err}
}

func (e *pairError) Unwrap() error { return e.err }

func (e *pairError) Error() string {
	var b strings.Builder
	for {
		fmt.Fprintf(&b, "%.40q: ", e.name)
		in, ok := e.err.(*pairError)
		if !ok {
			b.WriteString(e.err.Error())
			return b.String()
		}
		e = in
	}
}

func (d *decoder) pairs(l *List, depth int) error {
	if depth > maxDepth {
		return ErrDepth
	}
	for {
		p, last, err := d.pair(depth)
		if err != nil || last {
			return err
		}
		if p.Value.typ == 0 {
			continue
		}
		if !l.add(p) {
			return inPair(p.Name, ErrDuplicate)
		}
	}
}

// pair gives one without a type for a pair that is not wanted.
func (d *decoder) pair(depth int) (Pair, bool, error) {
	if !d.xdr {
		return d.nativePair(depth)
	}
	p, last, err := d.xdrPair(depth)
	if !last && err == nil && !d.wanted(p.Name, depth) {
		p = Pair{}
	}
	return p, last, err
}

func (d *decoder) wanted(name string, depth int) bool {
	return depth > 1 || d.want == nil || d.want(name)
}

// take gives the next n bytes.
func (d *decoder) take(n int) (string, error) {
	if n < 0 || n > d.end-d.off {
		return "", d.short(int64(n))
	}
	if d.stream != nil {
		s, err := d.stream.read(n)
		if err == nil {
			d.off += n
		}
		return s, err
	}
	s := d.s[d.off : d.off+n]
	d.off += n
	return s, nil
}

// short is the error of n bytes that are more than what is left, by what a pair
// says of its size or by what is allowed.
func (d *decoder) short(n int64) error {
	if d.stream != nil && d.end == d.stream.end && n > int64(d.end-d.off) {
		return fmt.Errorf("more than %d bytes: %w", d.stream.maxPair, ErrTooLarge)
	}
	return ErrTruncated
}
