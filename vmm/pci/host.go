// SPDX-License-Identifier: BSD-2-Clause

package pci

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/skepvm/skep/vmm/bus"
	"github.com/skepvm/skep/vmm/hv"
)

// HostConfig is what a root complex is made of.
type HostConfig struct {
	VM     hv.VM
	Ports  *bus.Bus
	MMIO   *bus.Bus
	Layout Layout
}

// Host is the root complex with bus 0.
type Host struct {
	layout Layout
	vm     hv.VM
	ports  *bus.Bus
	mmio   *bus.Bus
	lines  lines

	mu    sync.Mutex // guards all below, and every attached Function's configuration
	fns   [Slots][Functions]*Function
	order []*Function // by slot and function
	addr  uint32      // what the guest wrote to 0xcf8
	cf9   bus.Device
}

// NewHost puts a root complex into the machine: configuration ports, ECAM, and
// the host bridge in slot 0.
func NewHost(c HostConfig) (*Host, error) {
	if err := c.Layout.check(); err != nil {
		return nil, err
	}
	h := &Host{layout: c.Layout, vm: c.VM, ports: c.Ports, mmio: c.MMIO}
	h.lines.vm = c.VM
	if err := h.ports.Map(0xcf8, 8, (*configPorts)(h)); err != nil {
		return nil, fmt.Errorf("pci configuration ports: %w", err)
	}
	if err := h.mmio.Map(c.Layout.ECAM, uint64(c.Layout.Buses)<<20, (*ecam)(h)); err != nil {
		h.ports.Unmap(0xcf8)
		return nil, fmt.Errorf("pci ECAM: %w", err)
	}
	if err := h.Attach(0, 0, NewHostBridge()); err != nil {
		return nil, err
	}
	return h, nil
}

// Layout returns the address map.
func (h *Host) Layout() Layout { return h.layout }

// SetResetPort hands one-byte accesses of port 0xcf9, which lies inside the
// configuration address register, to dev (offset 0).
func (h *Host) SetResetPort(dev bus.Device) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cf9 = dev
}

// Attach puts d into a slot, before AssignBARs. Function 0 of a slot must be
// attached before the others.
func (h *Host) Attach(slot, fn int, d Device) error {
	f := d.Function()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case slot < 0 || slot >= Slots || fn < 0 || fn >= Functions:
		return fmt.Errorf("attach %v: no slot %d.%d", f, slot, fn)
	case h.fns[slot][fn] != nil:
		return fmt.Errorf("attach %v: slot %d.%d is taken by %v", f, slot, fn, h.fns[slot][fn])
	case fn > 0 && h.fns[slot][0] == nil:
		return fmt.Errorf("attach %v: slot %d has no function 0", f, slot)
	case f.host != nil:
		return fmt.Errorf("attach %v: attached already", f)
	}
	if f.msix != nil {
		if err := f.msix.attach(h.vm); err != nil {
			return fmt.Errorf("attach %v: %w", f, err)
		}
	}
	f.host, f.slot, f.fn = h, slot, fn
	if f.pin != 0 {
		f.cfg[regIntLine] = byte(GSI(slot, f.pin))
	}
	f.initial = f.cfg
	h.fns[slot][fn] = f
	if fn > 0 {
		h.fns[slot][0].cfg[regHeaderType] |= 0x80
		h.fns[slot][0].initial[regHeaderType] |= 0x80
	}
	h.order = append(h.order, f)
	slices.SortFunc(h.order, func(a, b *Function) int { return (a.slot*Functions + a.fn) - (b.slot*Functions + b.fn) })
	return nil
}

// FreeSlot returns the lowest slot without a device that is not the LPC's, or
// -1.
func (h *Host) FreeSlot() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range LPCSlot {
		if h.fns[s][0] == nil {
			return s
		}
	}
	return -1
}

// AssignBARs gives every BAR an address, largest first and each aligned to its
// size (memory to at least a page), and switches decoding on, as firmware does.
// It is called once, when all devices are attached. 64-bit BARs are put below
// 4 GiB while there is room.
func (h *Host) AssignBARs() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	type item struct {
		f *Function
		b *bar
	}
	var all []item
	for _, f := range h.order {
		for _, b := range f.bars {
			if b != nil {
				all = append(all, item{f, b})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b item) int {
		if a.b.Size > b.b.Size {
			return -1
		}
		if a.b.Size < b.b.Size {
			return 1
		}
		return 0
	})
	mem32, mem64, io := h.layout.Mem32, h.layout.Mem64, h.layout.IO
	take := func(w *Window, size uint64) (uint64, bool) {
		base := (w.Base + size - 1) &^ (size - 1)
		pad := base - w.Base
		if pad > w.Size || size > w.Size-pad {
			return 0, false
		}
		w.Base, w.Size = base+size, w.Size-pad-size
		return base, true
	}
	for _, it := range all {
		var addr uint64
		var ok bool
		switch size := max(it.b.Size, 4096); it.b.Kind {
		case IO:
			addr, ok = take(&io, it.b.Size)
		case Mem32:
			addr, ok = take(&mem32, size)
		case Mem64:
			if addr, ok = take(&mem32, size); !ok {
				addr, ok = take(&mem64, size)
			}
		}
		if !ok {
			return fmt.Errorf("%v: no room for BAR %d of %#x bytes", it.f, it.b.reg, it.b.Size)
		}
		it.f.setBARValue(it.b, addr)
		if it.b.Kind == IO {
			it.f.cfg[regCommand] |= CommandIO
		} else {
			it.f.cfg[regCommand] |= CommandMemory
		}
	}
	for _, f := range h.order {
		f.initial = f.cfg
		f.command.Store(uint32(binary.LittleEndian.Uint16(f.cfg[regCommand:])))
	}
	h.remap()
	return nil
}

// remap makes the buses follow the BARs. A BAR that collides with something
// stays unmapped until one of the two moves.
func (h *Host) remap() {
	for _, f := range h.order {
		for _, b := range f.bars {
			if b == nil || !b.mapped {
				continue
			}
			if addr, ok := f.wanted(b); !ok || addr != b.addr {
				h.busOf(b).Unmap(b.addr)
				b.mapped = false
				if b.Moved != nil {
					b.Moved(0, false)
				}
			}
		}
	}
	for _, f := range h.order {
		for _, b := range f.bars {
			if b == nil || b.mapped {
				continue
			}
			if addr, ok := f.wanted(b); ok && h.busOf(b).Map(addr, b.Size, b.Dev) == nil {
				b.mapped, b.addr = true, addr
				if b.Moved != nil {
					b.Moved(addr, true)
				}
			}
		}
	}
}

func (h *Host) busOf(b *bar) *bus.Bus {
	if b.Kind == IO {
		return h.ports
	}
	return h.mmio
}

// access carries out one configuration access; bdf is bus<<8 | slot<<3 | fn.
func (h *Host) access(bdf uint32, off, size int, write bool, v uint32) uint32 {
	none := uint32(1<<(8*uint(size)) - 1)
	if bdf >= Slots*Functions || off+size > configSize {
		return none
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.fns[bdf>>3][bdf&7]
	if f == nil {
		return none
	}
	if write {
		f.write(off, size, v)
		return 0
	}
	return f.read(off, size)
}

// configPorts is 0xcf8-0xcff.
type configPorts Host

func (p *configPorts) Read(off uint64, size int) uint64 {
	h := (*Host)(p)
	h.mu.Lock()
	addr, cf9 := h.addr, h.cf9
	h.mu.Unlock()
	switch {
	case off == 0 && size == 4:
		return uint64(addr)
	case off == 1 && size == 1 && cf9 != nil:
		return cf9.Read(0, 1)
	case off >= 4 && addr>>31 != 0:
		return uint64(h.access(addr>>8&0xffff, int(addr&0xfc)+int(off-4), size, false, 0))
	}
	return ^uint64(0)
}

func (p *configPorts) Write(off uint64, size int, v uint64) {
	h := (*Host)(p)
	h.mu.Lock()
	addr, cf9 := h.addr, h.cf9
	if off == 0 && size == 4 {
		h.addr = uint32(v) & 0x80fffffc
	}
	h.mu.Unlock()
	switch {
	case off == 1 && size == 1 && cf9 != nil:
		cf9.Write(0, 1, v)
	case off >= 4 && addr>>31 != 0:
		h.access(addr>>8&0xffff, int(addr&0xfc)+int(off-4), size, true, uint32(v))
	}
}

// ecam is the memory-mapped configuration window.
type ecam Host

func (e *ecam) Read(off uint64, size int) uint64 {
	v := uint64(0)
	for i := 0; i < size; i += 4 {
		v |= uint64((*Host)(e).access(uint32(off>>12), int(off&0xfff)+i, min(size, 4), false, 0)) << (8 * uint(i))
	}
	return v
}

func (e *ecam) Write(off uint64, size int, v uint64) {
	for i := 0; i < size; i += 4 {
		(*Host)(e).access(uint32(off>>12), int(off&0xfff)+i, min(size, 4), true, uint32(v>>(8*uint(i))))
	}
}

// Reset forgets what the guest wrote to the configuration address port. The
// devices are reset one by one.
func (h *Host) Reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addr = 0
}

// lines are the shared level-triggered interrupt lines.
type lines struct {
	vm hv.VM
	mu sync.Mutex
	on [24]map[*Function]bool // who asserts each line
}

// update drives f's line by f's state and that of those who share it.
func (l *lines) update(f *Function) {
	if f.pin == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	gsi := GSI(f.slot, f.pin)
	before := len(l.on[gsi]) > 0
	if f.intx.Load() && f.command.Load()&CommandNoINTx == 0 {
		if l.on[gsi] == nil {
			l.on[gsi] = map[*Function]bool{}
		}
		l.on[gsi][f] = true
	} else {
		delete(l.on[gsi], f)
	}
	if after := len(l.on[gsi]) > 0; after != before {
		_ = l.vm.SetIRQ(gsi, after) // fails only for a machine that is gone
	}
}
