// SPDX-License-Identifier: BSD-2-Clause

package rng_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/skepvm/skep/vmm/virtio/rng"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

func TestRandomBytes(t *testing.T) {
	m := vt.NewMachine(t, 16<<20, true)
	d := vt.Attach(m, rng.New(nil))
	q := d.Start(^uint64(0), 0)[0]
	seen := map[string]bool{}
	for range 20 {
		a, b := q.In(3), q.In(61)
		if n := q.Do(a, b); n != 64 {
			t.Fatalf("%d bytes", n)
		}
		s := string(m.Read(a.Addr, 3)) + string(m.Read(b.Addr, 61))
		if seen[s] || s == string(make([]byte, 64)) {
			t.Fatal("not random")
		}
		seen[s] = true
	}
	// A large request gets a bounded answer, one without room none.
	if n := q.Do(q.In(1 << 20)); n == 0 || n > 1<<16 {
		t.Errorf("%d bytes at once", n)
	}
	if n := q.Do(q.Out([]byte("x"))); n != 0 {
		t.Errorf("%d bytes written to nowhere", n)
	}
}

func TestBrokenSource(t *testing.T) {
	m := vt.NewMachine(t, 16<<20, true)
	src := io.MultiReader(bytes.NewReader([]byte("12345")), errReader{})
	d := vt.Attach(m, rng.New(src))
	q := d.Start(^uint64(0), 0)[0]
	in := q.In(64)
	if n := q.Do(in); n != 5 || string(m.Read(in.Addr, 6)) != "12345\x00" {
		t.Errorf("%d bytes, %q", n, m.Read(in.Addr, 6))
	}
	if n := q.Do(q.In(64)); n != 0 {
		t.Errorf("%d bytes of a broken source", n)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("broken") }
