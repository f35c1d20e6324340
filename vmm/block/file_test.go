// SPDX-License-Identifier: BSD-2-Clause

package block

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

const size = 4 << 20

// filled makes a disk of random bytes and returns them.
func filled(t testing.TB) (*File, []byte, string) {
	t.Helper()
	want := make([]byte, size)
	rand.NewChaCha8([32]byte{7}).Read(want)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := OpenFile(path, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b, want, path
}

// cut divides p into n pieces of odd lengths, some of them empty.
func cut(p []byte, n int) [][]byte {
	var out [][]byte
	for i := range n {
		k := min(len(p), rand.IntN(2*len(p)/(n-i)+1))
		if i == n-1 {
			k = len(p)
		}
		out, p = append(out, p[:k:k]), p[k:]
	}
	return out
}

func TestReadWriteVectors(t *testing.T) {
	b, want, path := filled(t)
	for _, pieces := range []int{1, 2, 3, 100, 1023, 1024, 1025, 3000} {
		off, n := rand.IntN(1<<20), 1<<20+rand.IntN(1<<20)
		got := make([]byte, n)
		bufs := cut(got, pieces)
		if err := b.ReadV(bufs, int64(off)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want[off:off+n]) || len(bufs) != pieces {
			t.Fatalf("%d pieces: bytes differ", pieces)
		}
		clear(got)
		if err := b.TryReadV(bufs, int64(off)); err == nil && !bytes.Equal(got, want[off:off+n]) {
			t.Fatalf("%d pieces without waiting: bytes differ", pieces)
		} else if err != nil && !errors.Is(err, ErrWouldBlock) {
			t.Fatal(err)
		}
		rand.NewChaCha8([32]byte{byte(pieces)}).Read(got)
		copy(want[off:], got)
		if err := b.WriteV(bufs, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	if on, err := os.ReadFile(path); err != nil || !bytes.Equal(on, want) {
		t.Errorf("the file differs (%v)", err)
	}
}

// Pieces that are no whole sectors go through a buffer where the disk is a
// device, and come out the same.
func TestRagged(t *testing.T) {
	b, want, path := filled(t)
	b.dev = true
	for _, pieces := range []int{2, 7, 500, 2000} {
		got := make([]byte, 1<<20)
		if err := b.ReadV(cut(got, pieces), 512); err != nil || !bytes.Equal(got, want[512:512+len(got)]) {
			t.Fatalf("%d pieces: %v, or bytes differ", pieces, err)
		}
		rand.NewChaCha8([32]byte{byte(pieces)}).Read(got)
		copy(want[1<<20:], got)
		if err := b.WriteV(cut(got, pieces), 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	if on, err := os.ReadFile(path); err != nil || !bytes.Equal(on, want) {
		t.Errorf("the file differs (%v)", err)
	}
}

func TestParallel(t *testing.T) {
	b, want, _ := filled(t)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			got := make([]byte, 64<<10)
			for i := range 50 {
				off := ((g*50 + i) % 64) << 16
				if err := b.ReadV(cut(got, 5), int64(off)); err != nil || !bytes.Equal(got, want[off:off+len(got)]) {
					t.Errorf("at %#x: %v", off, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A file that was cut short under us is an error, not a hang and no old bytes.
func TestTruncated(t *testing.T) {
	b, _, path := filled(t)
	if err := os.Truncate(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 8192)
	for _, bufs := range [][][]byte{{p}, {p[:4096], p[4096:]}} {
		if err := b.ReadV(bufs, 1<<20-4096); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v", err)
		}
		if err := b.TryReadV(bufs, 1<<20-4096); !errors.Is(err, ErrWouldBlock) {
			t.Errorf("without waiting: %v", err)
		}
	}
}

func TestDiscardAndZero(t *testing.T) {
	b, want, path := filled(t)
	for i, unmap := range []bool{false, true} {
		off, n := (1+i)<<20+512, 300<<10
		if err := b.WriteZeroes(int64(off), int64(n), unmap); err != nil {
			t.Fatal(err)
		}
		clear(want[off : off+n])
	}
	b.zero.Store(false) // as where the file system cannot
	if err := b.WriteZeroes(3<<20+512, 600<<10, true); err != nil {
		t.Fatal(err)
	}
	clear(want[3<<20+512 : 3<<20+512+600<<10])
	if err := b.Discard(0, 64<<10); err != nil {
		t.Fatal(err)
	}
	on, err := os.ReadFile(path)
	if err != nil || len(on) != size || !bytes.Equal(on[64<<10:], want[64<<10:]) {
		t.Errorf("bytes outside the ranges changed, or inside did not (%v)", err)
	}
	for i, c := range on[:64<<10] {
		if c != 0 && c != want[i] {
			t.Fatalf("byte %d after discard is neither old nor zero", i)
		}
	}
	for _, f := range []error{b.Discard(0, 0), b.Discard(5, -1), b.WriteZeroes(0, 0, true)} {
		if f != nil {
			t.Error(f)
		}
	}
}

func TestReadOnly(t *testing.T) {
	_, _, path := filled(t)
	b, err := OpenFile(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if g := b.Geometry(); !g.ReadOnly || g.Discard || g.Zero || g.Size != size || g.Logical != 512 {
		t.Errorf("%+v", g)
	}
	p := [][]byte{make([]byte, 512)}
	if err := b.ReadV(p, 0); err != nil {
		t.Error(err)
	}
	for _, err := range []error{b.WriteV(p, 0), b.Discard(0, 512), b.WriteZeroes(0, 512, false)} {
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%v", err)
		}
	}
	if err := b.Flush(); err != nil {
		t.Error(err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	small := filepath.Join(dir, "small")
	if err := os.WriteFile(small, make([]byte, 511), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "missing"): "no such file", small: "smaller than a sector", "/dev/null": "", dir: "",
	} {
		b, err := OpenFile(path, path == dir)
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte(want)) {
			t.Errorf("%s: %v, %v", path, b, err)
		}
	}
	odd := filepath.Join(dir, "odd")
	if err := os.WriteFile(odd, make([]byte, 1300), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := OpenFile(odd, false)
	if err != nil || b.Geometry().Size != 1024 {
		t.Fatalf("%+v, %v", b, err)
	}
	if err := errors.Join(b.Close(), b.Close()); err != nil {
		t.Error(err)
	}
}

func BenchmarkVectors(b *testing.B) {
	f, _, _ := filled(b)
	for name, o := range map[string]func([][]byte, int64) error{"read": f.ReadV, "tryread": f.TryReadV, "write": f.WriteV} {
		b.Run(name, func(b *testing.B) {
			bufs := [][]byte{make([]byte, 2048), make([]byte, 2048)}
			b.ReportAllocs()
			for b.Loop() {
				if err := o(bufs, 8192); err != nil && !errors.Is(err, ErrWouldBlock) {
					b.Fatal(err)
				}
			}
		})
	}
}
