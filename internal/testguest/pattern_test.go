// SPDX-License-Identifier: BSD-2-Clause

package testguest

import (
	"bytes"
	"testing"
)

func TestPattern(t *testing.T) {
	whole := make([]byte, 4096)
	Pattern(whole, 7, 1<<20)
	part := make([]byte, 1024)
	Pattern(part, 7, 1<<20+2048)
	if !bytes.Equal(part, whole[2048:3072]) {
		t.Error("the pattern of a part differs from that part of the pattern")
	}
	Pattern(part, 8, 1<<20+2048)
	if bytes.Equal(part, whole[2048:3072]) {
		t.Error("another seed gives the same pattern")
	}
}

func TestSum(t *testing.T) {
	p := make([]byte, 64<<10+24)
	Pattern(p, 3, 512)
	var whole, pieces Sum
	whole.Add(p)
	pieces.Add(p[:4096])
	pieces.Add(p[4096:])
	if whole != pieces || whole != PatternSum(3, 512, uint64(len(p))) {
		t.Errorf("sums %s, %s, %s differ", whole, pieces, PatternSum(3, 512, uint64(len(p))))
	}
	for name, change := range map[string]func(q []byte) []byte{
		"a bit":   func(q []byte) []byte { q[777] ^= 1; return q },
		"a swap":  func(q []byte) []byte { copy(q[0:8], p[8:16]); copy(q[8:16], p[0:8]); return q },
		"a loss":  func(q []byte) []byte { return append(q[:512], q[520:]...) },
		"the end": func(q []byte) []byte { return q[:len(q)-1] },
	} {
		var s Sum
		s.Add(change(bytes.Clone(p)))
		if s == whole {
			t.Errorf("%s does not show", name)
		}
	}
}
