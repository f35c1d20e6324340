// SPDX-License-Identifier: BSD-2-Clause

package pci

// Device is what sits in a slot. Its life is the contract of a device in the
// documentation of package vmm, which walks it from one goroutine:
//
//		Attach, Start, (Pause, Reset?, Resume)*, Pause?, Halt, Close
//
//	  - Start: the device may use guest memory and raise interrupts from now on,
//	    when the guest's driver lets it.
//	  - Pause: requests in flight finish and are answered; then the device does
//	    not touch guest memory nor raise an interrupt until Resume.
//	  - Reset: only while paused. The device forgets all that the guest told it,
//	    as at power-on; BARs get back their first addresses.
//	  - Halt: paused or not. The device ends its goroutines and waits for them;
//	    what the guest wrote has left the process.
//	  - Close: also of a device that never started. It closes what the device
//	    holds; twice does no harm.
//
// Register accesses of the guest come on vCPU threads, several at once.
type Device interface {
	// Function is the device's configuration space.
	Function() *Function
	Start() error
	Pause() error
	Reset()
	Resume() error
	Halt()
	Close() error
}

// Passive is a Device without a life of its own: a bridge.
type Passive struct{ fn *Function }

// NewPassive makes a Device of a configuration space alone.
func NewPassive(fn *Function) *Passive { return &Passive{fn} }

// NewHostBridge is the root complex as the guest finds it in slot 0 (bhyve's
// identity, which guests know).
func NewHostBridge() *Passive {
	return NewPassive(NewFunction(ID{Vendor: 0x1275, Device: 0x1275, Class: 0x060000}))
}

// NewLPC is the ISA bridge for slot LPCSlot (an Intel PIIX3, as in bhyve).
func NewLPC() *Passive {
	return NewPassive(NewFunction(ID{Vendor: 0x8086, Device: 0x7000, Class: 0x060100}))
}

// The methods of Device; a bridge has nothing to start or stop.

func (p *Passive) Function() *Function { return p.fn }
func (p *Passive) Start() error        { return nil }
func (p *Passive) Pause() error        { return nil }
func (p *Passive) Reset()              { p.fn.Reset() }
func (p *Passive) Resume() error       { return nil }
func (p *Passive) Halt()               {}
func (p *Passive) Close() error        { return p.fn.Close() }
