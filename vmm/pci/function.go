// SPDX-License-Identifier: BSD-2-Clause

package pci

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
)

// ID is a function's identity.
type ID struct {
	Vendor, Device             uint16
	Class                      uint32 // 24 bits: base class, subclass, interface
	Revision                   uint8
	SubsystemVendor, Subsystem uint16
}

// Registers of configuration space (PCI Local Bus 3.0, section 6.1).
const (
	regCommand    = 0x04
	regStatus     = 0x06
	regHeaderType = 0x0e
	regBAR0       = 0x10
	regCapPtr     = 0x34
	regIntLine    = 0x3c
	regIntPin     = 0x3d

	firstCap   = 0x40
	configSize = 4096
)

// Bits of the command register.
const (
	CommandIO        = 1 << 0
	CommandMemory    = 1 << 1
	CommandBusMaster = 1 << 2
	CommandNoINTx    = 1 << 10

	commandMask = CommandIO | CommandMemory | CommandBusMaster | 1<<6 | 1<<8 | CommandNoINTx
)

const (
	statusINTx    = 1 << 3
	statusCapList = 1 << 4
)

// Function is one PCI function: its configuration space and what hangs on it.
// It is built by its device before Attach; after that only the host writes it.
type Function struct {
	host     *Host // nil until attached
	slot, fn int
	name     string

	// Guarded by host.mu once attached.
	cfg, mask [configSize]byte // mask: bits that the guest may write
	hooks     []hook
	bars      [6]*bar
	msix      *MSIX
	capEnd    int // first free byte for a capability
	capLast   int // offset of the "next" byte to patch
	pin       int
	initial   [configSize]byte // as at power-on

	command   atomic.Uint32 // a copy that needs no lock
	onCommand func(command uint16)
	intx      atomic.Bool // the device asserts its line
}

type hook struct {
	off, size   int
	read, write func(off, size int)
}

// NewFunction makes a type 0 function without BARs or capabilities.
func NewFunction(id ID) *Function {
	f := &Function{capEnd: firstCap, capLast: regCapPtr, slot: -1}
	le := binary.LittleEndian
	le.PutUint16(f.cfg[0:], id.Vendor)
	le.PutUint16(f.cfg[2:], id.Device)
	le.PutUint32(f.cfg[8:], id.Class<<8|uint32(id.Revision))
	le.PutUint16(f.cfg[0x2c:], id.SubsystemVendor)
	le.PutUint16(f.cfg[0x2e:], id.Subsystem)
	le.PutUint16(f.mask[regCommand:], commandMask)
	f.mask[0x0c], f.mask[regIntLine] = 0xff, 0xff // cache line size, scratch for software
	return f
}

// SetName names the function in errors.
func (f *Function) SetName(name string) { f.name = name }

// String is "name at slot.function".
func (f *Function) String() string {
	if f.slot < 0 {
		return fmt.Sprintf("pci function %s", f.name)
	}
	return fmt.Sprintf("pci function %s at %d.%d", f.name, f.slot, f.fn)
}

// Slot returns where the function sits, or -1 before Attach.
func (f *Function) Slot() (slot, fn int) { return f.slot, f.fn }

// SetPin wires the function to an interrupt pin of its slot: INTA is 1, INTD 4.
func (f *Function) SetPin(p int) {
	f.pin = p
	f.cfg[regIntPin] = byte(p)
}

// AddCapability appends a capability: id, then body behind the id and next
// bytes. mask has a one for every bit of body that the guest may write; it may
// be shorter than body. It returns the capability's offset.
func (f *Function) AddCapability(id uint8, body, mask []byte) (int, error) {
	off := (f.capEnd + 3) &^ 3
	if off+2+len(body) > 256 || f.host != nil {
		return 0, fmt.Errorf("%v: no room for capability %#x of %d bytes", f, id, len(body))
	}
	f.cfg[off], f.cfg[off+1] = id, 0
	copy(f.cfg[off+2:], body)
	copy(f.mask[off+2:off+2+len(body)], mask)
	f.cfg[f.capLast] = byte(off)
	f.cfg[regStatus] |= statusCapList
	f.capLast, f.capEnd = off+1, off+2+len(body)
	return off, nil
}

// Hook has read called before the guest reads any of [off, off+size) and write
// after it wrote some of it, both with the host's lock held and with the bytes
// of the access that lie inside. Either may be nil. Inside a hook Peek and Poke
// reach configuration space.
func (f *Function) Hook(off, size int, read, write func(off, size int)) {
	f.hooks = append(f.hooks, hook{off, size, read, write})
}

// Peek returns size (1, 2 or 4) bytes of configuration space as stored. Only
// before Attach and from a hook.
func (f *Function) Peek(off, size int) uint32 {
	var b [4]byte
	copy(b[:size], f.cfg[off:off+size])
	return binary.LittleEndian.Uint32(b[:])
}

// Poke stores size bytes, whatever the guest may write. Only before Attach and
// from a hook.
func (f *Function) Poke(off, size int, v uint32) {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	copy(f.cfg[off:off+size], b[:])
}

// OnCommand has fn called, with the host's lock held, after the guest changed
// the command register.
func (f *Function) OnCommand(fn func(command uint16)) { f.onCommand = fn }

// BusMaster says whether the guest lets the function use memory (DMA and MSI).
func (f *Function) BusMaster() bool { return f.command.Load()&CommandBusMaster != 0 }

// SetINTx drives the function's interrupt pin. From any goroutine.
func (f *Function) SetINTx(level bool) {
	if f.host != nil && f.pin != 0 && f.intx.Swap(level) != level {
		f.host.lines.update(f)
	}
}

// read is a configuration read; off+size <= configSize.
func (f *Function) read(off, size int) uint32 {
	for _, h := range f.hooks {
		if lo, hi := max(off, h.off), min(off+size, h.off+h.size); lo < hi && h.read != nil {
			h.read(lo, hi-lo)
		}
	}
	v := f.Peek(off, size)
	if off <= regStatus && off+size > regStatus && f.intx.Load() {
		v |= statusINTx << (8 * uint(regStatus-off))
	}
	return v
}

// write is a configuration write; off+size <= configSize.
func (f *Function) write(off, size int, v uint32) {
	for i := range size {
		m := f.mask[off+i]
		f.cfg[off+i] = f.cfg[off+i]&^m | byte(v>>(8*i))&m
	}
	end := off + size
	if off < regCommand+2 && end > regCommand {
		f.commandChanged()
	}
	if off < regBAR0+24 && end > regBAR0 || off < regCommand+2 && end > regCommand {
		f.host.remap()
	}
	for _, h := range f.hooks {
		if lo, hi := max(off, h.off), min(end, h.off+h.size); lo < hi && h.write != nil {
			h.write(lo, hi-lo)
		}
	}
}

func (f *Function) commandChanged() {
	c := binary.LittleEndian.Uint16(f.cfg[regCommand:])
	if uint32(c) == f.command.Swap(uint32(c)) {
		return
	}
	f.host.lines.update(f)
	if f.msix != nil {
		f.msix.again()
	}
	if f.onCommand != nil {
		f.onCommand(c)
	}
}

// Reset brings configuration space back to power-on: BARs at the addresses
// that AssignBARs gave, MSI-X off, line low. The device calls it in its Reset.
func (f *Function) Reset() {
	if f.host == nil {
		return
	}
	f.SetINTx(false)
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	f.cfg = f.initial
	if f.msix != nil {
		f.msix.reset()
	}
	f.commandChanged()
	f.host.remap()
}

// Close frees the function's interrupt sources. The device calls it in Close.
func (f *Function) Close() error {
	if f.msix == nil {
		return nil
	}
	return f.msix.close()
}
