// SPDX-License-Identifier: BSD-2-Clause

package pci

import (
	"errors"
	"fmt"
	"sync"

	"github.com/skepvm/skep/vmm/hv"
)

// MaxVectors is the largest MSI-X table that a function here may have.
const MaxVectors = 256

const (
	msixEnable   = 1 << 15
	msixMaskAll  = 1 << 14
	vectorMasked = 1
)

// MSIX is a function's MSI-X capability with its table and pending bits (PCI
// Local Bus 3.0, section 6.8.2).
type MSIX struct {
	f *Function
	n int

	mu      sync.Mutex
	vec     []vector // guarded by mu, as is all below
	enabled bool
	maskAll bool
	closed  bool
}

type vector struct {
	src     hv.MSI // nil until attached
	addr    uint64
	data    uint32
	masked  bool
	pending bool
	// What src has been told: telling it is expensive, so it is done when a
	// changed entry is unmasked and not at each of the guest's writes.
	set     bool
	setAddr uint64
	setData uint32
}

// AddMSIX gives the function n vectors whose table lies in BAR at offset table
// (16 bytes each) and whose pending bits lie at pba (8 bytes for 64 vectors).
// The caller maps Table and PBA there.
func (f *Function) AddMSIX(n, bar int, table, pba uint32) (*MSIX, error) {
	if n < 1 || n > MaxVectors || f.msix != nil || bar < 0 || bar > 5 || table%8 != 0 || pba%8 != 0 {
		return nil, fmt.Errorf("%v: bad MSI-X of %d vectors", f, n)
	}
	body := make([]byte, 10)
	put32 := func(off int, v uint32) {
		for i := range 4 {
			body[off+i] = byte(v >> (8 * i))
		}
	}
	body[0], body[1] = byte(n-1), byte((n-1)>>8)
	put32(2, table|uint32(bar))
	put32(6, pba|uint32(bar))
	cap, err := f.AddCapability(0x11, body, []byte{0, (msixEnable | msixMaskAll) >> 8})
	if err != nil {
		return nil, err
	}
	m := &MSIX{f: f, n: n, vec: make([]vector, n)}
	for i := range m.vec {
		m.vec[i].masked = true
	}
	f.msix = m
	f.Hook(cap+2, 2, nil, func(int, int) {
		c := f.Peek(cap+2, 2)
		m.control(c&msixEnable != 0, c&msixMaskAll != 0)
	})
	return m, nil
}

func (m *MSIX) attach(vm hv.VM) error {
	for i := range m.vec {
		src, err := vm.NewMSI()
		if err != nil {
			return errors.Join(fmt.Errorf("make MSI-X vector %d: %w", i, err), m.close())
		}
		m.vec[i].src = src
	}
	return nil
}

// close is safe to call twice.
func (m *MSIX) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	var errs []error
	for i := range m.vec {
		if s := m.vec[i].src; s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

func (m *MSIX) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.enabled, m.maskAll = false, false
	for i := range m.vec {
		v := &m.vec[i]
		*v = vector{src: v.src, masked: true, set: v.set, setAddr: v.setAddr, setData: v.setData}
	}
}

// again delivers what had to wait for bus mastering.
func (m *MSIX) again() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.vec {
		m.deliver(&m.vec[i], false)
	}
}

func (m *MSIX) control(enabled, maskAll bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.enabled, m.maskAll = enabled, maskAll
	for i := range m.vec {
		m.deliver(&m.vec[i], false)
	}
}

// Signal raises vector n, or marks it pending while it is masked; a vector that
// does not exist is ignored. It answers false where MSI-X is off: then INTx is
// the way. From any goroutine.
func (m *MSIX) Signal(n int) (enabled bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.enabled && n >= 0 && n < len(m.vec) {
		m.deliver(&m.vec[n], true)
	}
	return m.enabled
}

// deliver brings v's source up to date and sends what is due.
func (m *MSIX) deliver(v *vector, signal bool) {
	v.pending = v.pending || signal
	if !m.enabled || m.maskAll || v.masked || m.closed || v.src == nil || !m.f.BusMaster() {
		return
	}
	if !v.set || v.setAddr != v.addr || v.setData != v.data {
		// A message that the kernel refuses is the guest's loss: on real
		// hardware it would be a write to nowhere.
		v.set = v.src.Set(v.addr, v.data) == nil
		v.setAddr, v.setData = v.addr, v.data
	}
	if v.pending {
		v.pending = false
		if v.set {
			_ = v.src.Signal()
		}
	}
}

// TableSize and PBASize are the bytes that Table and PBA take in a BAR.
func (m *MSIX) TableSize() uint64 { return uint64(m.n) * 16 }
func (m *MSIX) PBASize() uint64   { return uint64(m.n+63) / 64 * 8 }

// Table returns the vector table as a device of a BAR.
func (m *MSIX) Table() *MSIXTable { return (*MSIXTable)(m) }

// PBA returns the pending bit array as a device of a BAR.
func (m *MSIX) PBA() *MSIXPBA { return (*MSIXPBA)(m) }

// MSIXTable is the vector table's registers.
type MSIXTable MSIX

// MSIXPBA is the pending bits, which the guest can only read.
type MSIXPBA MSIX

func (v *vector) word(i uint64) uint32 {
	switch i {
	case 0:
		return uint32(v.addr)
	case 1:
		return uint32(v.addr >> 32)
	case 2:
		return v.data
	}
	if v.masked {
		return vectorMasked
	}
	return 0
}

// Read answers any width that does not cross an 8-byte boundary.
func (t *MSIXTable) Read(off uint64, size int) uint64 {
	if off/16 >= uint64(t.n) || off%8+uint64(size) > 8 {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	v := &t.vec[off/16]
	i := off % 16 / 8 * 2
	return (uint64(v.word(i)) | uint64(v.word(i+1))<<32) >> (8 * (off % 8))
}

// Write takes aligned words of 4 and 8 bytes, the only widths that the
// specification allows; others are ignored.
func (t *MSIXTable) Write(off uint64, size int, x uint64) {
	if off/16 >= uint64(t.n) || (size != 4 && size != 8) || off%uint64(size) != 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	v := &t.vec[off/16]
	for i := off % 16 / 4; size > 0; i, size, x = i+1, size-4, x>>32 {
		w := uint32(x)
		switch i {
		case 0:
			v.addr = v.addr&^0xffffffff | uint64(w&^3)
		case 1:
			v.addr = v.addr&0xffffffff | uint64(w)<<32
		case 2:
			v.data = w
		case 3:
			v.masked = w&vectorMasked != 0
		}
	}
	(*MSIX)(t).deliver(v, false)
}

// Read answers pending bits.
func (p *MSIXPBA) Read(off uint64, size int) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var v uint64
	for i := range uint64(8 * size) {
		if n := off*8 + i; n < uint64(len(p.vec)) && p.vec[n].pending {
			v |= 1 << i
		}
	}
	return v
}

// Write does nothing.
func (p *MSIXPBA) Write(uint64, int, uint64) {}
