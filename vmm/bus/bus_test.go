// SPDX-License-Identifier: BSD-2-Clause

package bus

import (
	"errors"
	"testing"
)

type probe struct {
	off  uint64
	size int
	v    uint64
}

func (p *probe) Read(off uint64, size int) uint64     { p.off, p.size = off, size; return ^uint64(0) }
func (p *probe) Write(off uint64, size int, v uint64) { p.off, p.size, p.v = off, size, v }

func TestDispatch(t *testing.T) {
	var b Bus
	a, c := new(probe), new(probe)
	if err := b.Map(0x3f8, 8, a); err != nil {
		t.Fatal(err)
	}
	if err := b.Map(^uint64(0)-7, 8, c); err != nil {
		t.Fatal(err)
	}
	if v, ok := b.Read(0x3fd, 1); !ok || v != 0xff || a.off != 5 || a.size != 1 {
		t.Fatalf("read: %#x %v %+v", v, ok, a)
	}
	if !b.Write(^uint64(0)-3, 4, 0x1_2345_6789) || c.off != 4 || c.v != 0x2345_6789 {
		t.Fatalf("write: %+v", c)
	}
	for _, x := range []struct {
		addr uint64
		size int
	}{{0x3f7, 1}, {0x400, 1}, {0x3ff, 2}, {0x3f7, 2}, {^uint64(0) - 1, 4}} {
		if v, ok := b.Read(x.addr, x.size); ok || v != ^uint64(0)>>(64-8*x.size) {
			t.Errorf("read %#x/%d: %#x %v", x.addr, x.size, v, ok)
		}
	}
}

func TestOverlap(t *testing.T) {
	var b Bus
	d := new(probe)
	if err := b.Map(0x100, 0x10, d); err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]uint64{{0xff, 2}, {0x10f, 1}, {0, 0x1000}, {0x104, 2}} {
		if err := b.Map(r[0], r[1], d); !errors.Is(err, ErrOverlap) {
			t.Errorf("%#x: %v", r, err)
		}
	}
	for _, r := range [][2]uint64{{0, 0}, {^uint64(0), 2}} {
		if err := b.Map(r[0], r[1], d); err == nil || errors.Is(err, ErrOverlap) {
			t.Errorf("%#x: %v", r, err)
		}
	}
	b.Unmap(0x100)
	if err := b.Map(0xf8, 0x10, d); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkRead(b *testing.B) {
	var bus Bus
	for i := range uint64(16) {
		if err := bus.Map(i<<12, 1<<12, new(probe)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		bus.Read(0x5004, 4)
	}
}
