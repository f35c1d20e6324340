// SPDX-License-Identifier: BSD-2-Clause

package chipset

import "sync/atomic"

const (
	// PortReset is where a machine has the reset control register. It lies
	// inside PCI's configuration address register.
	PortReset = 0xcf9
	// ResetValue at PortReset restarts the machine (0xe also cuts the power
	// for a moment, which is the same here).
	ResetValue = 0x06
)

// ResetControl is the reset control register of Intel's south bridges, one
// byte. A write with bit 2 set resets.
type ResetControl struct {
	reset func()
	v     atomic.Uint32
}

// NewResetControl makes the register. reset is called on the vCPU's thread and
// must not block; nil ignores it.
func NewResetControl(reset func()) *ResetControl {
	if reset == nil {
		reset = func() {}
	}
	return &ResetControl{reset: reset}
}

// Read implements bus.Device.
func (r *ResetControl) Read(off uint64, size int) uint64 {
	if off != 0 || size != 1 {
		return ^uint64(0)
	}
	return uint64(r.v.Load())
}

// Write implements bus.Device.
func (r *ResetControl) Write(off uint64, size int, v uint64) {
	if off != 0 || size != 1 {
		return
	}
	r.v.Store(uint32(v & 0x0a)) // bit 2 makes an edge and reads as zero
	if v&4 != 0 {
		r.reset()
	}
}

// Reset clears the register.
func (r *ResetControl) Reset() { r.v.Store(0) }

// PortA is system control port A (0x92): the A20 gate, which does nothing, and
// the fast reset.
type PortA struct {
	reset func()
	a20   atomic.Bool
}

// NewPortA makes the port. reset is as for NewResetControl.
func NewPortA(reset func()) *PortA {
	p := &PortA{reset: reset}
	if reset == nil {
		p.reset = func() {}
	}
	p.Reset()
	return p
}

// Read implements bus.Device.
func (p *PortA) Read(off uint64, size int) uint64 {
	switch {
	case off != 0 || size != 1:
		return ^uint64(0)
	case p.a20.Load():
		return 2
	}
	return 0
}

// Write implements bus.Device.
func (p *PortA) Write(off uint64, size int, v uint64) {
	if off != 0 || size != 1 {
		return
	}
	p.a20.Store(v&2 != 0)
	if v&1 != 0 {
		p.reset()
	}
}

// Reset opens the A20 gate, as firmware leaves it.
func (p *PortA) Reset() { p.a20.Store(true) }

// delayPort is where nothing happens: POST codes and the I/O delay.
type delayPort struct{}

// Read implements bus.Device.
func (delayPort) Read(uint64, int) uint64 { return ^uint64(0) }

// Write implements bus.Device.
func (delayPort) Write(uint64, int, uint64) {}
