// SPDX-License-Identifier: BSD-2-Clause

package testguest

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Pattern fills p with the test pattern of that seed for the bytes from
// offset on. Every 8 bytes depend on their place, so that a block that lands
// elsewhere shows. Offset and length are multiples of 8.
func Pattern(p []byte, seed, offset uint64) {
	for i := 0; i+8 <= len(p); i += 8 {
		x := seed*0x9e3779b97f4a7c15 + offset + uint64(i)
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(p[i:], x^x>>31)
	}
}

// A Sum is a running checksum that is cheap under emulation: not against
// forgery, but any change, loss or swap of 8-byte words shows in it.
type Sum uint64

// Add adds the bytes, a multiple of 8 except at the end.
func (s *Sum) Add(p []byte) {
	h := uint64(*s)
	for len(p) >= 8 {
		h = bits.RotateLeft64(h^binary.LittleEndian.Uint64(p), 27)*0x9e3779b97f4a7c15 + 0x52dce729
		p = p[8:]
	}
	for _, b := range p {
		h = bits.RotateLeft64(h^uint64(b), 27)*0x9e3779b97f4a7c15 + 0x38495ab5
	}
	*s = Sum(h)
}

// String returns the sum as 16 hexadecimal digits.
func (s Sum) String() string { return fmt.Sprintf("%016x", uint64(s)) }

// PatternSum returns the sum of length bytes of pattern.
func PatternSum(seed, offset, length uint64) Sum {
	var s Sum
	buf := make([]byte, 64<<10)
	for length > 0 {
		n := min(length, uint64(len(buf)))
		Pattern(buf[:n], seed, offset)
		s.Add(buf[:n])
		offset += n
		length -= n
	}
	return s
}
