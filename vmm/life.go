// SPDX-License-Identifier: BSD-2-Clause

package vmm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/skepvm/skep/vmm/hv"
)

// device is a part of the machine with a life of its own; the contract is in the
// package's documentation. One that also is an io.Closer is closed by
// Machine.Close.
type device interface {
	Start() error
	Pause() error
	Reset()
	Resume() error
	Halt()
}

// live is the life of a machine, on its one goroutine.
func (m *Machine) live(ctx context.Context) (end End) {
	for _, c := range m.cpus {
		go c.loop()
	}
	defer func() {
		m.stopCPUs()
		for _, c := range m.cpus {
			close(c.orders)
			<-c.gone
		}
		m.haltDevices()
	}()
	boot, err := m.load()
	if err != nil {
		return failed(err)
	}
	for _, d := range m.devices {
		if err := d.Start(); err != nil {
			return failed(fmt.Errorf("start device: %w", err))
		}
	}
	m.startCPUs(boot)
	m.event(Event{Kind: EventStarted})
	for {
		select {
		case <-ctx.Done():
			return End{Cause: Killed, Detail: context.Cause(ctx).Error(), VCPU: -1}
		case s := <-m.stopped:
			m.left(s)
		case <-m.attend:
		case r := <-m.requests:
			err := m.answer(r)
			if f := new(fatal); errors.As(err, &f) {
				return failed(f.err)
			}
		}
		switch m.wanted.Load() {
		case wantKill:
			return End{Cause: Killed, Detail: "by request", VCPU: -1}
		case wantPowerOff:
			return End{Cause: PowerOff, VCPU: -1}
		case wantReset:
			if err := m.reset("by the guest"); err != nil {
				return failed(err)
			}
		}
		if m.over != nil {
			return *m.over
		}
		if m.State() == Running {
			m.startCPUs(nil) // one that was halted for something that is done
		}
	}
}

// fatal is an error of an operation after which the machine cannot go on.
type fatal struct{ err error }

func (f *fatal) Error() string { return f.err.Error() }
func (f *fatal) Unwrap() error { return f.err }

func failed(err error) End { return End{Cause: Failed, Detail: err.Error(), VCPU: -1} }

// left takes note that a vCPU has left the guest, and judges why.
func (m *Machine) left(s stop) {
	s.cpu.in = false
	at := func(c Cause, detail string) {
		if m.over == nil {
			m.over = &End{Cause: c, Detail: detail, VCPU: s.cpu.v.ID(), Registers: s.state}
		}
	}
	if s.err != nil {
		at(Failed, s.err.Error())
		return
	}
	switch e := s.exit.(type) {
	case hv.Interrupted:
	case hv.Shutdown:
		if e.Last != nil {
			s.state = e.Last
			at(TripleFault, "the processor has lost its state; the registers are those of the vCPU's last exit")
			break
		}
		at(TripleFault, "")
	case hv.Halted:
		at(Halted, e.String())
	case hv.SystemReset:
		m.ask(wantReset)
	case hv.SystemPowerOff:
		m.ask(wantPowerOff)
	case hv.Destroyed, hv.Failed:
		at(Failed, e.String())
	default:
		at(Failed, fmt.Sprintf("unknown exit %T", s.exit))
	}
}

// stopCPUs takes every vCPU out of the guest and waits until it is.
func (m *Machine) stopCPUs() {
	for _, c := range m.cpus {
		if c.in {
			c.halt()
		}
	}
	for _, c := range m.cpus {
		for c.in {
			m.left(<-m.stopped)
		}
	}
}

// startCPUs lets every resting vCPU into the guest. boot, if not nil, is the
// state in which the first one begins.
func (m *Machine) startCPUs(boot *hv.State) {
	for _, c := range m.cpus {
		if c.in {
			continue
		}
		c.in = true
		c.rest.Store(false)
		c.orders <- order{set: boot}
		boot = nil
	}
}

func (m *Machine) pause() error {
	if m.State() == Paused {
		return nil
	}
	m.stopCPUs()
	if err := m.pauseDevices(); err != nil {
		return err
	}
	if err := m.vm.Pause(); err != nil {
		return &fatal{fmt.Errorf("pause: %w", err)}
	}
	m.state.Store(int32(Paused))
	m.event(Event{Kind: EventPaused})
	return nil
}

func (m *Machine) resume() error {
	if m.State() == Running {
		return nil
	}
	if err := m.vm.Resume(); err != nil {
		return &fatal{fmt.Errorf("resume: %w", err)}
	}
	if err := m.resumeDevices(); err != nil {
		return err
	}
	m.state.Store(int32(Running))
	boot := m.pending
	m.pending = nil
	m.startCPUs(boot)
	m.event(Event{Kind: EventResumed})
	return nil
}

func (m *Machine) pauseDevices() error {
	for _, d := range m.devices {
		if err := d.Pause(); err != nil {
			return &fatal{fmt.Errorf("pause device: %w", err)}
		}
	}
	return nil
}

// haltDevices ends every device, started or not: some have goroutines from the
// beginning, or somebody waits for them.
func (m *Machine) haltDevices() {
	for i := len(m.devices) - 1; i >= 0; i-- {
		m.devices[i].Halt()
	}
}

func (m *Machine) resumeDevices() error {
	for i := len(m.devices) - 1; i >= 0; i-- {
		if err := m.devices[i].Resume(); err != nil {
			return &fatal{fmt.Errorf("resume device: %w", err)}
		}
	}
	return nil
}

// reset brings the machine to its power-on state and boots it again; a paused
// one when it is resumed.
func (m *Machine) reset(why string) error {
	paused := m.State() == Paused
	if !paused {
		m.stopCPUs()
		if err := m.pauseDevices(); err != nil {
			return err
		}
	}
	for _, d := range m.devices {
		d.Reset()
	}
	if err := m.vm.Reset(); err != nil {
		return &fatal{fmt.Errorf("reset: %w", err)}
	}
	if err := m.zeroMemory(); err != nil {
		return &fatal{fmt.Errorf("reset: %w", err)}
	}
	boot, err := m.load()
	if err != nil {
		return &fatal{fmt.Errorf("reset: %w", err)}
	}
	// What the guest asked for or met before has been answered by this.
	m.wanted.CompareAndSwap(wantReset, wantNothing)
	m.over = nil
	m.reboots.Add(1)
	if paused {
		m.pending = boot
	} else {
		if err := m.resumeDevices(); err != nil {
			return err
		}
		m.startCPUs(boot)
	}
	m.event(Event{Kind: EventRebooted, Text: why})
	return nil
}

func (m *Machine) zeroMemory() error {
	if z, ok := m.vm.(hv.MemoryZeroer); ok {
		return z.ZeroMemory()
	}
	m.mem.Zero()
	return nil
}

func (m *Machine) powerButton() error {
	m.event(Event{Kind: EventPowerButton})
	m.parts.powerButton()
	return nil
}

func (m *Machine) registers() ([]hv.State, error) {
	m.stopCPUs()
	regs := make([]hv.State, len(m.cpus))
	for i, c := range m.cpus {
		ch := make(chan readState, 1)
		c.orders <- order{read: ch}
		r := <-ch
		if r.err != nil {
			return nil, fmt.Errorf("vCPU %d: %w", i, r.err)
		}
		regs[i] = r.state
	}
	return regs, nil // live lets the vCPUs in again
}

// load puts the tables and the operating system into memory.
func (m *Machine) load() (*hv.State, error) {
	if err := m.parts.loadTables(m.mem); err != nil {
		return nil, err
	}
	p := m.params
	p.Rand = rand.Reader
	return m.cfg.Boot.Load(m.mem, p)
}
