// SPDX-License-Identifier: BSD-2-Clause

package guestmem

import (
	"errors"
	"math"
	"testing"

	"github.com/skepvm/skep/vmm/hv"
)

func mem(t testing.TB) *Memory {
	t.Helper()
	rs := []hv.Region{{Base: 1 << 32, Size: 0x2000}, {Base: 0, Size: 0x1000}, {Base: 0xffff_0000, Size: 0x1000, Kind: hv.ROM}}
	m, err := New(rs, [][]byte{make([]byte, 0x2000), make([]byte, 0x1000), make([]byte, 0x1000)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestBounds(t *testing.T) {
	m := mem(t)
	good := [][2]uint64{{0, 0x1000}, {0xfff, 1}, {1 << 32, 0x2000}, {1<<32 + 0x1fff, 1}, {0, 0}}
	bad := [][2]uint64{{0, 0x1001}, {0x1000, 1}, {0xfff, 2}, {1<<32 - 1, 2}, {1<<32 + 0x2000, 0}, {math.MaxUint64, 1},
		{math.MaxUint64, math.MaxUint64}, {0, math.MaxUint64}, {1, math.MaxUint64}, {0xffff_0000, 4}}
	for _, x := range good {
		if b, err := m.Slice(x[0], x[1]); err != nil || uint64(len(b)) != x[1] || cap(b) != len(b) {
			t.Errorf("%#x: %v", x, err)
		}
	}
	for _, x := range bad {
		if _, err := m.Slice(x[0], x[1]); !errors.Is(err, ErrBounds) {
			t.Errorf("%#x: %v", x, err)
		}
	}
}

func TestROM(t *testing.T) {
	m := mem(t)
	if err := m.WriteAt([]byte{1}, 0xffff_0000); !errors.Is(err, ErrBounds) {
		t.Fatal(err)
	}
	if err := m.LoadROM([]byte{7}, 0xffff_0000); err != nil {
		t.Fatal(err)
	}
	var p [1]byte
	if err := m.ReadAt(p[:], 0xffff_0000); err != nil || p[0] != 7 {
		t.Fatal(p, err)
	}
	m.Zero()
	if err := m.ReadAt(p[:], 0xffff_0000); err != nil || p[0] != 7 {
		t.Fatal("Zero must leave ROM", p, err)
	}
	if err := m.LoadROM([]byte{7}, 0); !errors.Is(err, ErrBounds) {
		t.Fatal(err)
	}
}

func TestAtomics(t *testing.T) {
	m := mem(t)
	if err := m.WriteAt([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 8); err != nil {
		t.Fatal(err)
	}
	for gpa, want := range map[uint64]uint16{8: 0x0201, 10: 0x0403, 14: 0x0807} {
		if v, err := m.LoadU16(gpa); err != nil || v != want {
			t.Errorf("%#x: %#x %v", gpa, v, err)
		}
	}
	if err := m.StoreU16(10, 0xaabb); err != nil {
		t.Fatal(err)
	}
	if v, err := m.LoadU64(8); err != nil || v != 0x08070605_aabb0201 {
		t.Fatalf("%#x %v", v, err)
	}
	if err := errors.Join(m.StoreU32(12, 1), m.StoreU64(16, 2)); err != nil {
		t.Fatal(err)
	}
	if v, _ := m.LoadU32(12); v != 1 {
		t.Fatal(v)
	}
	for _, err := range []error{
		m.StoreU16(0xfff, 0), m.StoreU16(9, 0), m.StoreU32(0xffe, 0), m.StoreU32(2, 0), m.StoreU64(4, 0), m.StoreU64(0x1000, 0),
	} {
		if !errors.Is(err, ErrBounds) {
			t.Error(err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	b := make([]byte, 0x1000)
	for name, c := range map[string]struct {
		r []hv.Region
		m [][]byte
	}{
		"overlap": {[]hv.Region{{Base: 0, Size: 0x1000}, {Base: 0xfff, Size: 0x1000}}, [][]byte{b, b}},
		"short":   {[]hv.Region{{Base: 0, Size: 0x2000}}, [][]byte{b}},
		"wrap":    {[]hv.Region{{Base: math.MaxUint64, Size: 0x1000}}, [][]byte{b}},
		"count":   {[]hv.Region{{Base: 0, Size: 0x1000}}, nil},
		"empty":   {[]hv.Region{{Base: 0}}, [][]byte{nil}},
	} {
		if _, err := New(c.r, c.m); err == nil {
			t.Error(name)
		}
	}
}
