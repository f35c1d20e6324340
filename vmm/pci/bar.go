// SPDX-License-Identifier: BSD-2-Clause

package pci

import (
	"encoding/binary"
	"fmt"

	"github.com/skepvm/skep/vmm/bus"
)

// BARKind is the address space of a BAR.
type BARKind uint8

// The kinds of BAR.
const (
	Mem32 BARKind = iota
	Mem64         // takes two BAR registers
	IO
)

// BAR describes a base address register.
type BAR struct {
	Kind     BARKind
	Prefetch bool   // memory without side effects of reading
	Size     uint64 // bytes, a power of two; at least 16 (memory) or 4 (ports)
	Dev      bus.Device
	// Moved, if set, is called with the host's lock held after the range was
	// mapped at addr, or unmapped.
	Moved func(addr uint64, mapped bool)
}

type bar struct {
	BAR
	reg    int // 0..5
	mapped bool
	addr   uint64 // where mapped
}

// AddBAR puts b into register n (and n+1 where it is 64 bits wide).
func (f *Function) AddBAR(n int, b BAR) error {
	least, last := uint64(16), 5
	if b.Kind == IO {
		least = 4
	}
	if b.Kind == Mem64 {
		last = 4
	}
	if n < 0 || n > last || f.host != nil || b.Dev == nil || b.Size < least || b.Size&(b.Size-1) != 0 ||
		b.Kind == Mem32 && b.Size > 1<<31 || b.Kind == IO && b.Size > 1<<8 || b.Size > 1<<40 {
		return fmt.Errorf("%v: bad BAR %d of %#x bytes", f, n, b.Size)
	}
	for _, o := range f.bars {
		if o != nil && (o.reg == n || o.Kind == Mem64 && o.reg+1 == n || b.Kind == Mem64 && o.reg == n+1) {
			return fmt.Errorf("%v: BAR %d is taken", f, n)
		}
	}
	f.bars[n] = &bar{BAR: b, reg: n}
	off, le := regBAR0+4*n, binary.LittleEndian
	flags, mask := uint32(0), -b.Size
	switch b.Kind {
	case IO:
		flags = 1
	case Mem64:
		flags = 4
		le.PutUint32(f.mask[off+4:], uint32(mask>>32))
	}
	if b.Prefetch && b.Kind != IO {
		flags |= 8
	}
	le.PutUint32(f.cfg[off:], flags)
	le.PutUint32(f.mask[off:], uint32(mask))
	return nil
}

// value is the address in the register; the flag bits are below any size.
func (f *Function) barValue(b *bar) uint64 {
	off, le := regBAR0+4*b.reg, binary.LittleEndian
	v := uint64(le.Uint32(f.cfg[off:]))
	if b.Kind == Mem64 {
		v |= uint64(le.Uint32(f.cfg[off+4:])) << 32
	}
	return v & -b.Size
}

func (f *Function) setBARValue(b *bar, addr uint64) {
	off, le := regBAR0+4*b.reg, binary.LittleEndian
	le.PutUint32(f.cfg[off:], uint32(addr)|le.Uint32(f.cfg[off:])&15)
	if b.Kind == Mem64 {
		le.PutUint32(f.cfg[off+4:], uint32(addr>>32))
	}
}

// wanted is where the guest wants the BAR; ok is false where it is switched off
// or lies where the host bridge forwards nothing.
func (f *Function) wanted(b *bar) (addr uint64, ok bool) {
	addr = f.barValue(b)
	c, l := f.command.Load(), &f.host.layout
	if b.Kind == IO {
		return addr, c&CommandIO != 0 && l.IO.holds(addr, b.Size)
	}
	return addr, c&CommandMemory != 0 && (l.Mem32.holds(addr, b.Size) || l.Mem64.holds(addr, b.Size))
}

// Space is a BAR made of several devices: give it as BAR.Dev after mapping them
// into Bus by their offsets.
type Space struct{ Bus bus.Bus }

// Read answers from the device that holds the whole access, or all ones.
func (s *Space) Read(off uint64, size int) uint64 { v, _ := s.Bus.Read(off, size); return v }

// Write reaches the device that holds the whole access, or nothing.
func (s *Space) Write(off uint64, size int, v uint64) { s.Bus.Write(off, size, v) }
