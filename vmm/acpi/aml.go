// SPDX-License-Identifier: BSD-2-Clause

package acpi

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// aml encodes terms of the ACPI machine language (section 20.2). Each method
// returns one encoded term; terms are nested by passing them on. The first error
// sticks.
type aml struct{ err error }

func (a *aml) fail(format string, args ...any) []byte {
	if a.err == nil {
		a.err = fmt.Errorf("AML: "+format, args...)
	}
	return nil
}

func cat(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// maxPkgLength is the largest value of a PkgLength (section 20.2.4).
const maxPkgLength = 1<<28 - 1

// pkgLength encodes the length of a package of n bytes, itself not counted. It
// counts itself and takes as few bytes as it can.
func (a *aml) pkgLength(n int) []byte {
	if n >= 0 && n+1 <= 0x3f {
		return []byte{byte(n + 1)}
	}
	for extra := 1; n >= 0 && extra <= 3; extra++ {
		if l := n + 1 + extra; l < 1<<(4+8*extra) {
			b := []byte{byte(extra<<6 | l&0xf)}
			for i := range extra {
				b = append(b, byte(l>>(4+8*i)))
			}
			return b
		}
	}
	return a.fail("package of %d bytes: at most %d", n, maxPkgLength-4)
}

// name encodes a NameString: a path of segments of 1-4 characters, with \ or ^
// in front and dots between.
func (a *aml) name(path string) []byte {
	var b []byte
	rest := path
	for len(rest) > 0 && (rest[0] == '\\' && len(b) == 0 || rest[0] == '^' && (len(b) == 0 || b[0] == '^')) {
		b = append(b, rest[0])
		rest = rest[1:]
	}
	var segs [][]byte
	for rest != "" {
		n := 0
		for n < len(rest) && rest[n] != '.' {
			n++
		}
		seg := rest[:n]
		if rest = rest[n:]; rest != "" {
			if rest = rest[1:]; rest == "" {
				return a.fail("name %q ends in a dot", path)
			}
		}
		if len(seg) < 1 || len(seg) > 4 {
			return a.fail("name %q: segment %q has not 1-4 characters", path, seg)
		}
		s := []byte("____")
		for i, c := range []byte(seg) {
			if !(c >= 'A' && c <= 'Z' || c == '_' || i > 0 && c >= '0' && c <= '9') {
				return a.fail("name %q: bad character %q", path, c)
			}
			s[i] = c
		}
		segs = append(segs, s)
	}
	switch {
	case len(segs) == 0:
		return append(b, 0)
	case len(segs) == 2:
		b = append(b, 0x2e)
	case len(segs) > 255:
		return a.fail("name of %d segments", len(segs))
	case len(segs) > 2:
		b = append(b, 0x2f, byte(len(segs)))
	}
	return append(b, cat(segs...)...)
}

// pkg encodes an object with a PkgLength.
func (a *aml) pkg(op []byte, body ...[]byte) []byte {
	b := cat(body...)
	return cat(op, a.pkgLength(len(b)), b)
}

// integer encodes a constant in as few bytes as it can.
func (a *aml) integer(v uint64) []byte {
	le := binary.LittleEndian
	switch {
	case v <= 1:
		return []byte{byte(v)}
	case v <= 0xff:
		return []byte{0x0a, byte(v)}
	case v <= 0xffff:
		return le.AppendUint16([]byte{0x0b}, uint16(v))
	case v <= 0xffffffff:
		return le.AppendUint32([]byte{0x0c}, uint32(v))
	}
	return le.AppendUint64([]byte{0x0e}, v)
}

// eisaID encodes a seven-character id as the compressed number, whose bytes are
// in the order of the characters.
func (a *aml) eisaID(id string) []byte {
	if len(id) != 7 {
		return a.fail("EISA id %q has not 7 characters", id)
	}
	var v uint32
	for i, c := range []byte(id) {
		switch {
		case i < 3 && c >= 'A' && c <= 'Z':
			v = v<<5 | uint32(c-'@')
		case i >= 3 && c >= '0' && c <= '9':
			v = v<<4 | uint32(c-'0')
		case i >= 3 && c >= 'A' && c <= 'F':
			v = v<<4 | uint32(c-'A'+10)
		default:
			return a.fail("EISA id %q: bad character %q", id, c)
		}
	}
	return a.integer(uint64(bits.ReverseBytes32(v)))
}

func (a *aml) str(s string) []byte {
	for _, c := range []byte(s) {
		if c == 0 || c > 0x7f {
			return a.fail("string %q is not ASCII", s)
		}
	}
	return cat([]byte{0x0d}, []byte(s), []byte{0})
}

func (a *aml) def(name string, value []byte) []byte { return cat([]byte{0x08}, a.name(name), value) }

func (a *aml) scope(name string, body ...[]byte) []byte {
	return a.pkg([]byte{0x10}, a.name(name), cat(body...))
}

func (a *aml) device(name string, body ...[]byte) []byte {
	return a.pkg([]byte{0x5b, 0x82}, a.name(name), cat(body...))
}

func (a *aml) method(name string, args int, body ...[]byte) []byte {
	if args < 0 || args > 7 {
		return a.fail("method %s of %d arguments", name, args)
	}
	return a.pkg([]byte{0x14}, a.name(name), []byte{byte(args)}, cat(body...))
}

func (a *aml) list(elems ...[]byte) []byte {
	if len(elems) > 255 {
		return a.fail("package of %d elements", len(elems))
	}
	return a.pkg([]byte{0x12}, []byte{byte(len(elems))}, cat(elems...))
}

func (a *aml) buffer(b []byte) []byte { return a.pkg([]byte{0x11}, a.integer(uint64(len(b))), b) }

func (a *aml) ifThen(cond []byte, body ...[]byte) []byte {
	return a.pkg([]byte{0xa0}, cond, cat(body...))
}

func (a *aml) ret(v []byte) []byte { return cat([]byte{0xa4}, v) }

func (a *aml) store(v, to []byte) []byte { return cat([]byte{0x70}, v, to) }

func (a *aml) arg(n int) []byte {
	if n < 0 || n > 6 {
		return a.fail("argument %d", n)
	}
	return []byte{byte(0x68 + n)}
}
