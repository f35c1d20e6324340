// SPDX-License-Identifier: BSD-2-Clause

package nvlist

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// read walks over what r gives. Its list has names twice if what it read has.
func read(r io.Reader, maxPair int) (*List, error) {
	l := &List{}
	for p, err := range WalkReader(r, maxPair) {
		if err != nil {
			return l, err
		}
		l.pairs = append(l.pairs, p)
	}
	return l, nil
}

// walked is read of Walk.
func walked(b []byte) (*List, error) {
	l := &List{}
	for p, err := range Walk(b) {
		if err != nil {
			return l, err
		}
		l.pairs = append(l.pairs, p)
	}
	return l, nil
}

// begins reports whether a list has the first pairs of another.
func begins(a, l *List) bool {
	return a.Len() <= l.Len() && a.Equal(&List{pairs: l.pairs[:a.Len()]})
}

// encodings are those of Encode, and the one in which the kernel writes XDR.
func encodings(t fataler, l *List) [][]byte {
	t.Helper()
	out := [][]byte{kernelXDR(t, l)}
	for _, enc := range []Encoding{Native, XDR} {
		b, err := l.Encode(enc)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

func TestWalkReader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := genList(3).Draw(t, "list")
		for i, b := range encodings(t, l) {
			const more = "and something else"
			r := bytes.NewReader(append(slices.Clone(b), more...))
			if got, err := read(r, 0); err != nil || !got.Equal(l) || r.Len() != len(more) {
				t.Fatalf("%d: %d bytes are left: %v\n got %v\nwant %v", i, r.Len(), err, got, l)
			}
			for how, r := range map[string]io.Reader{
				"a byte at a time": iotest.OneByteReader(bytes.NewReader(b)), "halves": iotest.HalfReader(bytes.NewReader(b)),
				"the end with the data": iotest.DataErrReader(bytes.NewReader(b)),
			} {
				if got, err := read(r, len(b)); err != nil || !got.Equal(l) {
					t.Fatalf("%d, %s: %v\n got %v\nwant %v", i, how, err, got, l)
				}
			}
		}
	})
}

func TestWalkReaderCut(t *testing.T) {
	boom := errors.New("boom")
	l := everyType()
	for which, b := range encodings(t, l) {
		for i := range b {
			if got, err := read(bytes.NewReader(b[:i]), 0); !errors.Is(err, ErrTruncated) || errors.Is(err, io.EOF) || !begins(got, l) {
				t.Errorf("%d cut at %d: %v, %v", which, i, err, got)
			}
			r := io.MultiReader(bytes.NewReader(b[:i]), iotest.ErrReader(boom))
			if got, err := read(r, 0); !errors.Is(err, boom) || errors.Is(err, ErrSyntax) || !begins(got, l) {
				t.Errorf("%d broken at %d: %v, %v", which, i, err, got)
			}
		}
		if _, err := read(io.MultiReader(bytes.NewReader(b), iotest.ErrReader(boom)), 0); err != nil {
			t.Errorf("%d broken behind its end: %v", which, err)
		}
	}
}

// Whoever leaves the loop can read on, and an error ends it.
func TestWalkReaderLeft(t *testing.T) {
	l := everyType()
	for which, b := range encodings(t, l) {
		for n := range l.Len() {
			r := bytes.NewReader(b)
			var seen int
			for range WalkReader(r, 0) {
				if seen++; seen > n {
					break
				}
			}
			rest, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			head := slices.Clone(b[:headerLen+8])
			want := &List{pairs: l.pairs[n+1:]}
			if got, err := Decode(append(head, rest...)); err != nil || !got.Equal(want) {
				t.Fatalf("%d left after %d: %v\n got %v\nwant %v", which, n+1, err, got, want)
			}
		}
	}
	for range WalkReader(bytes.NewReader([]byte{9, 9, 9, 9, 9}), 0) {
		break // at an error too
	}
}

func TestWalkReaderTooLarge(t *testing.T) {
	many := make([]string, 300)
	for _, l := range []*List{
		New(P("a", make([]byte, 1200))), New(P("a", many)), New(P("a", lists(100, New()))), New(P("a", make([]uint64, 200))),
		New(P("a", New(P("b", make([]byte, 600)), P("c", make([]byte, 600))))),
		New(P("a", named(100, Of([]uint64{})))), New(P("a", New(P("b", New(P("c", many)))))),
	} {
		for which, b := range encodings(t, New(slices.Concat([]Pair{P("first", "x")}, l.pairs, []Pair{P("last", "y")})...)) {
			got, err := read(bytes.NewReader(b), 1000)
			if !errors.Is(err, ErrTooLarge) || errors.Is(err, ErrSyntax) || got.Len() != l.Len() {
				t.Errorf("%d: %v after %d pairs", which, err, got.Len())
			}
			if got, err := read(bytes.NewReader(b), len(b)); err != nil || got.Len() != l.Len()+2 {
				t.Errorf("%d: %v after %d pairs", which, err, got.Len())
			}
		}
	}
	// A size that a pair is not large enough for is no question of what is allowed.
	b, _ := New(P("l", New(P("s", "abcd")))).Encode(XDR)
	b[headerLen+8+xdrPairMin+4+8] = 0x7f
	if _, err := read(bytes.NewReader(b), 1000); !errors.Is(err, ErrTruncated) {
		t.Error(err)
	}
}

// A list that is never in memory as a whole, from an Encoder to WalkReader.
func TestStreamHeap(t *testing.T) {
	const pairs, every = 100_000, 20_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	text := strings.Repeat("a value ", 12)
	value := func(i int) *List {
		return New(P("i", uint64(i)), P("text", text))
	}
	for _, enc := range []Encoding{Native, XDR} {
		before := heap()
		pr, pw := io.Pipe()
		defer pr.Close() // which ends the writer
		done := make(chan error, 1)
		var written int
		go func() {
			w := bufio.NewWriterSize(writerFunc(func(b []byte) (int, error) { written += len(b); return pw.Write(b) }), 64<<10)
			e := NewEncoder(w, enc)
			var err error
			for i := 0; i < pairs && err == nil; i++ {
				err = e.Add(strconv.Itoa(i), Of(value(i)))
			}
			err = errors.Join(err, e.Close(), w.Flush())
			pw.CloseWithError(err)
			done <- err
		}()
		n := 0
		var most uint64
		for p, err := range WalkReader(bufio.NewReaderSize(pr, 64<<10), 4<<10) {
			if err != nil {
				t.Fatal(err)
			}
			if p.Name != strconv.Itoa(n) || n%101 == 0 && !p.Value.List().Equal(value(n)) {
				t.Fatalf("pair %d is %q: %v", n, p.Name, p.Value.List())
			}
			if n++; n%every == 0 {
				most = max(most, heap())
			}
		}
		if err := <-done; err != nil || n != pairs {
			t.Errorf("%d pairs: %v", n, err)
		}
		if limit := uint64(1 << 20); written < 10<<20 || most > before+limit {
			t.Errorf("encoding %d: %d bytes went by and the heap grew from %d to %d", enc, written, before, most)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Reading is in proportion to the input, in bytes allocated and in calls of Read, for a pair that is large too.
func TestWalkReaderLinear(t *testing.T) {
	for _, l := range []*List{
		New(P("bytes", make([]byte, 4<<20))), New(P("many", named(20_000, Of([]uint64{})))), named(20_000, Of(uint32(1))),
	} {
		for which, b := range encodings(t, l) {
			r := &counting{r: bytes.NewReader(b)}
			var err error
			got := allocated(func() { _, err = read(r, 0) })
			if err != nil || got > uint64(memoryFactor*len(b)+memoryAnyway) || r.calls > len(b)/2 {
				t.Errorf("%d: %d bytes and %d reads for %d bytes: %v", which, got, r.calls, len(b), err)
			}
		}
	}
}

type counting struct {
	r     io.Reader
	calls int
}

func (c *counting) Read(b []byte) (int, error) {
	c.calls++
	return c.r.Read(b)
}
