// SPDX-License-Identifier: BSD-2-Clause

package nvlist

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// What doc.go promises: bytes allocated for each byte of the input, and whatever the input.
const (
	memoryFactor = 32
	memoryAnyway = 64 << 10
)

// allocated is the number of bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// checkMemory decodes b in every way and holds what that allocates, dropped and grown out of included, against the promise.
func checkMemory(t interface {
	Helper()
	Errorf(string, ...any)
}, what string, b []byte) {
	t.Helper()
	for how, decode := range map[string]func(){
		"Decode":     func() { _, _ = Decode(b) },
		"DecodeSome": func() { _, _ = DecodeSome(b, func(name string) bool { return len(name)%2 == 0 }) },
		"Walk": func() {
			for range Walk(b) {
			}
		},
		"WalkReader": func() {
			for range WalkReader(bytes.NewReader(b), 0) {
			}
		},
	} {
		if got := allocated(decode); got > uint64(memoryFactor*len(b)+memoryAnyway) {
			t.Errorf("%s: %s allocates %d bytes for an input of %d", what, how, got, len(b))
		}
	}
}

// named is a list of n pairs of v whose names are as short as they can be.
func named(n int, v Value) *List {
	l := New()
	for i := range n {
		name := []byte{byte(1 + i%255)}
		for i /= 255; i > 0; i /= 255 {
			name = append(name, byte(1+i%255))
		}
		l.Set(string(name), v)
	}
	return l
}

// lists is an array of n times l.
func lists(n int, l *List) *List { return New(P("", slices.Repeat([]*List{l}, n))) }

func TestMemoryBound(t *testing.T) {
	const n = 4000
	shapes := map[string]*List{
		"flags": named(n, Of(Flag{})), "integers": named(n, Of(uint64(1))), "strings": New(P("s", make([]string, n))),
		"bytes": New(P("b", make([]byte, 8*n))), "bools": New(P("b", make([]bool, n))), "numbers": New(P("n", make([]uint64, n))),
		"no lists": named(n, Of([]*List{})), "no strings": named(n, Of([]string{})),
		"a string each": named(n, Of([]string{""})), "empty lists": named(n, Of(New())),
		"arrays of one": lists(n, New(P("", []*List{New()}))), "arrays of arrays": lists(16, lists(16, lists(16, New()))),
	}
	for _, m := range []int{0, 1, 2, 3, 5, 9, 17, 24, 25, 33, 57, 65, 113, 1000} {
		shapes[fmt.Sprint("lists of ", m)] = lists(1+n/(m+1), named(m, Of(Flag{})))
		shapes[fmt.Sprint("strings of ", m)] = lists(1+n/(m+1), New(P("", make([]string, m))))
	}
	for _, m := range []int{1, 2, 9, 200} { // nested as deep as can be, with m-1 lists in front of each
		l := New()
		for range maxDepth - 1 {
			l = New(P("", append(slices.Repeat([]*List{New()}, m-1), l)))
		}
		shapes[fmt.Sprint("deep arrays of ", m)] = l
	}
	long := New()
	for range maxDepth - 1 {
		long = New(P(strings.Repeat("\x01", 8<<10), long))
	}
	shapes["deep under long names"] = long
	for name, l := range shapes {
		for _, enc := range []Encoding{Native, XDR} {
			b, err := l.Encode(enc)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := Decode(b); err != nil || !got.Equal(l) {
				t.Fatalf("%s, encoding %d: %v", name, enc, err)
			}
			what := fmt.Sprintf("%s, encoding %d", name, enc)
			checkMemory(t, what, b)
			checkMemory(t, what+", cut", b[:len(b)-1])
			checkMemory(t, what+", half", b[:len(b)/2])
		}
	}
	// A claim of many elements without the bytes for them allocates nothing to speak of.
	for _, enc := range []Encoding{Native, XDR} {
		b, _ := New(P("l", []*List{New()}), P("s", []string{"x"})).Encode(enc)
		for i := 12; i < len(b); i++ {
			c := slices.Clone(b)
			c[i] = 0x7f
			checkMemory(t, fmt.Sprintf("encoding %d, 7f at %d", enc, i), c)
		}
	}
}

// Arrays of lists within arrays of lists, each of which promises as many
// elements as its bytes could hold, though the one within needs the same bytes.
func TestMemoryOfPromises(t *testing.T) {
	for _, size := range []int{8 << 10, 1 << 20} {
		for _, filler := range []byte{0, 0xff} {
			for _, typ := range []Type{TypeLists, TypeStrings} {
				b := be32(be32([]byte{byte(XDR), littleEndian, 0, 0}, version), UniqueName)
				for depth := range maxDepth {
					room := size - len(b)
					if depth == maxDepth-1 && typ != TypeLists {
						b = be32(be32(be32(be32(be32(b, uint32(room)), maxSize), 0), uint32(typ)), uint32(room-xdrPairMin)/4)
						break
					}
					b = be32(be32(be32(be32(be32(b, uint32(room)), maxSize), 0), uint32(TypeLists)), uint32(room-xdrPairMin)/16)
					b = be32(be32(b, version), UniqueName)
				}
				b = append(b, slices.Repeat([]byte{filler}, size-len(b))...)
				checkMemory(t, fmt.Sprintf("%d bytes, %x, %v within", size, filler, typ), b)
			}
		}
	}
}

func TestMemoryOfAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := genList(3).Draw(t, "list")
		for _, enc := range []Encoding{Native, XDR} {
			b, err := l.Encode(enc)
			if err != nil {
				t.Fatal(err)
			}
			checkMemory(t, "as it is", b)
			for range rapid.IntRange(0, 4).Draw(t, "changes") {
				b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
			}
			checkMemory(t, "changed", b)
		}
	})
}
