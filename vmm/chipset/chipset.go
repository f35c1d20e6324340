// SPDX-License-Identifier: BSD-2-Clause

package chipset

import (
	"fmt"
	"io"

	"github.com/skepvm/skep/vmm/bus"
)

// Serial ports and their interrupt lines.
const (
	PortCOM1, IRQCOM1 = 0x3f8, 4
	PortCOM2, IRQCOM2 = 0x2f8, 3
	PortRTC, IRQRTC   = 0x70, 8
)

// Config says what a machine's chipset has.
type Config struct {
	// SetIRQ drives a line of the interrupt controllers (hv.VM.SetIRQ). It is
	// called from vCPU threads and from the chipset's own goroutines.
	SetIRQ func(line int, level bool)
	// Clock is the host's time; nil is SystemClock.
	Clock Clock

	// COM1 receives what the guest writes to its first serial port; nil
	// discards it, the port is there all the same.
	COM1 io.Writer
	// HasCOM2 adds a second port, whose output goes to COM2.
	HasCOM2 bool
	COM2    io.Writer

	// KernelTimers: the hypervisor has the real-time clock (ports 0x70, 0x71)
	// and the power management timer, as bhyve does.
	KernelTimers bool
	// LowMem and HighMem are the guest's memory below the PCI hole and above
	// 4 GiB, in bytes.
	LowMem, HighMem uint64

	// NoKeyboard leaves out the keyboard controller; package acpi must then be
	// told so.
	NoKeyboard bool

	// Reset and PowerOff are called on a vCPU's thread when the guest asks for
	// one; they must not block and may come more than once.
	Reset, PowerOff func()
}

// Chipset is the assembled chipset. Its lifecycle methods follow package vmm's
// contract of a device.
type Chipset struct {
	COM1, COM2 *UART // COM2 is nil without Config.HasCOM2
	PM         *PM
	// ResetControl belongs at PortReset: give it to pci.Host.SetResetPort, or
	// map it there in a machine without PCI.
	ResetControl *ResetControl

	ports []mapping
	parts []part
	plain []interface{ Reset() } // that have nothing but a reset
}

type mapping struct {
	port, size uint64
	dev        bus.Device
}

// part is a device whose life's steps cannot fail.
type part interface {
	Start()
	Pause()
	Resume()
	Reset()
	Halt()
}

// New assembles a chipset in its power-on state.
func New(cfg Config) (*Chipset, error) {
	if cfg.SetIRQ == nil {
		return nil, fmt.Errorf("chipset: SetIRQ is missing")
	}
	line := func(n int) func(bool) { return func(level bool) { cfg.SetIRQ(n, level) } }
	c := &Chipset{}
	c.COM1 = NewUART(UARTConfig{IRQ: line(IRQCOM1), Output: cfg.COM1, Clock: cfg.Clock})
	c.add(c.COM1, mapping{PortCOM1, 8, c.COM1})
	if cfg.HasCOM2 {
		c.COM2 = NewUART(UARTConfig{IRQ: line(IRQCOM2), Output: cfg.COM2, Clock: cfg.Clock})
		c.add(c.COM2, mapping{PortCOM2, 8, c.COM2})
	}
	c.PM = NewPM(PMConfig{SCI: line(SCI), PowerOff: cfg.PowerOff})
	c.add(c.PM)
	if !cfg.KernelTimers {
		rtc := NewRTC(RTCConfig{IRQ: line(IRQRTC), Clock: cfg.Clock, LowMem: cfg.LowMem, HighMem: cfg.HighMem})
		c.add(rtc, mapping{PortRTC, 2, rtc})
		t := NewPMTimer(cfg.Clock)
		c.add(t, mapping{PortPMTimer, 4, t})
	}
	if !cfg.NoKeyboard {
		k := NewI8042(cfg.Reset, line(1))
		c.add(k, mapping{PortKeyboard, 1, kbdPort{k, false}}, mapping{PortKeyboardCommand, 1, kbdPort{k, true}})
	}
	a, r := NewPortA(cfg.Reset), NewResetControl(cfg.Reset)
	c.ResetControl = r
	c.plain = append(c.plain, a, r)
	c.ports = append(c.ports, mapping{0x92, 1, a},
		mapping{0x80, 1, delayPort{}}, mapping{0xed, 1, delayPort{}})
	return c, nil
}

func (c *Chipset) add(p part, m ...mapping) {
	c.parts = append(c.parts, p)
	c.ports = append(c.ports, m...)
}

// Map puts the chipset, but for ResetControl, on the port bus.
func (c *Chipset) Map(ports *bus.Bus) error {
	for _, m := range c.ports {
		if err := ports.Map(m.port, m.size, m.dev); err != nil {
			return fmt.Errorf("chipset: %w", err)
		}
	}
	if err := c.PM.Map(ports); err != nil {
		return fmt.Errorf("chipset: %w", err)
	}
	return nil
}

// Start begins the chipset's work.
func (c *Chipset) Start() error {
	for _, p := range c.parts {
		p.Start()
	}
	return nil
}

// Pause stops timers, interrupts and input from the host.
func (c *Chipset) Pause() error {
	for _, p := range c.parts {
		p.Pause()
	}
	return nil
}

// Resume goes on after Pause.
func (c *Chipset) Resume() error {
	for _, p := range c.parts {
		p.Resume()
	}
	return nil
}

// Reset takes every part to its power-on state.
func (c *Chipset) Reset() {
	for _, p := range c.parts {
		p.Reset()
	}
	for _, p := range c.plain {
		p.Reset()
	}
}

// Halt ends the chipset; the guest's last output has then been written.
func (c *Chipset) Halt() {
	for _, p := range c.parts {
		p.Halt()
	}
}
