// SPDX-License-Identifier: BSD-2-Clause

package vmm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skepvm/skep/vmm/boot"
	"github.com/skepvm/skep/vmm/bus"
	"github.com/skepvm/skep/vmm/guestmem"
	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/virtio/blk"
	vnet "github.com/skepvm/skep/vmm/virtio/net"
)

// Machine is one guest. Make it with New, call Run once, then Close.
type Machine struct {
	cfg          Config
	backend      hv.Backend // nil if it is the caller's
	kernelTimers bool       // the hypervisor has the RTC and the PM timer
	vm           hv.VM
	mem          *guestmem.Memory
	params       boot.Params
	cpus         []*cpu
	devices      []device
	disks        []*blk.Device  // among the devices, as configured
	nics         []*vnet.Device // the same
	parts        parts

	ports, mmio bus.Bus

	state   atomic.Int32
	reboots atomic.Int64
	started atomic.Int64 // UnixNano of Run
	wanted  atomic.Int32 // what the guest or a caller asked for: a want

	over     *End          // how it will end, once known; the machine's goroutine only
	pending  *hv.State     // where the boot vCPU begins when a machine reset while paused is resumed
	requests chan *request // from callers
	stopped  chan stop     // from vCPUs, each at most one between two runs
	attend   chan struct{} // capacity 1: look at wanted
	ended    chan struct{} // closed when Run returns, or by a Close without it

	closeOnce sync.Once
	closeErr  error
}

// want is a change of state that has been asked for by somebody who cannot wait
// for it; a greater one wins.
type want = int32

const (
	wantNothing want = iota
	wantReset
	wantPowerOff
	wantKill
)

// request is what a caller asks of the machine's goroutine.
type request struct {
	do   func() error
	undo func() error // if not nil, for what was done when nobody waited for it any longer
	done chan error
	over atomic.Bool // decided: it is done, or its caller has given up
}

// New makes a machine ready to run: it checks cfg, opens the hypervisor,
// allocates guest memory and assembles the devices. On error nothing is left
// behind. Errors wrap ErrConfig, boot.ErrImage, boot.ErrMemory or one of hv's.
func New(cfg Config) (_ *Machine, err error) {
	if err := cfg.Validate(); err != nil {
		cfg.closeFiles()
		return nil, err
	}
	m := &Machine{
		cfg:      cfg.withDefaults(),
		requests: make(chan *request),
		stopped:  make(chan stop, hv.MaxVCPUs),
		attend:   make(chan struct{}, 1),
		ended:    make(chan struct{}),
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("machine %q: %w", m.cfg.Name, err)
			m.Close()
		}
	}()
	low, high := split(m.cfg.Memory)
	m.params = boot.Params{CPUs: m.cfg.CPUs, LowMem: low, HighMem: high, Reserved: reserved()}
	if err := m.cfg.Boot.Check(m.params); err != nil {
		return nil, err
	}
	b := m.cfg.Backend
	if b == nil {
		if b, err = openBackend(); err != nil {
			return nil, err
		}
		m.backend = b
	}
	m.kernelTimers = b.Name() == "bhyve"
	if m.vm, err = b.NewVM(hv.Config{Name: m.cfg.Name, VCPUs: m.cfg.CPUs, Topology: m.cfg.Topology}); err != nil {
		return nil, err
	}
	regions := memoryRegions(low, high)
	maps, err := m.vm.MapMemory(regions)
	if err != nil {
		return nil, err
	}
	if m.mem, err = guestmem.New(regions, maps); err != nil {
		return nil, err
	}
	for i := range m.cfg.CPUs {
		m.cpus = append(m.cpus, newCPU(m, m.vm.VCPU(i)))
	}
	if err := m.assemble(); err != nil {
		return nil, err
	}
	return m, nil
}

// Run starts the machine and returns when it has ended: the guest powered off,
// crashed, or was killed (also by ctx). Resets are done in place and only
// counted. The error is nil for PowerOff and Killed; otherwise it says what End
// says, and End has the registers. A machine runs once: a second call fails with
// ErrState.
func (m *Machine) Run(ctx context.Context) (End, error) {
	if !m.state.CompareAndSwap(int32(Created), int32(Running)) {
		return End{Cause: Failed, VCPU: -1}, fmt.Errorf("machine %q: run: %w: %v", m.cfg.Name, ErrState, m.State())
	}
	start := time.Now()
	m.started.Store(start.UnixNano())
	end := m.live(ctx)
	end.Reboots, end.Uptime = int(m.reboots.Load()), time.Since(start)
	m.state.Store(int32(Ended))
	close(m.ended)
	m.event(Event{Kind: EventEnded, Text: end.String(), End: &end})
	switch end.Cause {
	case PowerOff, Killed:
		return end, nil
	}
	return end, fmt.Errorf("machine %q: %v", m.cfg.Name, end)
}

func (m *Machine) event(e Event) {
	e.Time = time.Now()
	m.cfg.Events(e)
}

// call hands r to the machine's goroutine and waits for it. A caller who gives up
// meanwhile leaves it to the goroutine to do r, and to undo it where it says how.
func (m *Machine) call(ctx context.Context, what string, r *request) error {
	if err := m.await(ctx, r); err != nil {
		return fmt.Errorf("machine %q: %s: %w", m.cfg.Name, what, err)
	}
	return nil
}

func (m *Machine) await(ctx context.Context, r *request) error {
	if m.State() == Created {
		return fmt.Errorf("%w: not running", ErrState)
	}
	r.done = make(chan error, 1)
	select {
	case m.requests <- r:
	case <-m.ended:
		return ErrEnded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		if r.over.CompareAndSwap(false, true) {
			return context.Cause(ctx)
		}
		return <-r.done
	}
}

// answer does what a caller asked for, on the machine's goroutine.
func (m *Machine) answer(r *request) error {
	err := r.do()
	if !r.over.CompareAndSwap(false, true) && err == nil && r.undo != nil {
		err = r.undo()
	}
	r.done <- err
	return err
}

// Pause stops the machine: when it returns no vCPU is in the guest and no device
// touches its memory. Pausing a paused machine does nothing. When ctx ends first
// the machine runs on, after a moment of rest if the pause was under way.
func (m *Machine) Pause(ctx context.Context) error {
	was := Paused
	return m.call(ctx, "pause", &request{
		do: func() error { was = m.State(); return m.pause() },
		undo: func() error {
			if was == Paused {
				return nil
			}
			return m.resume()
		},
	})
}

// Resume lets a paused machine go on. Time went on meanwhile: the guest's clocks
// agree with the host's. Resuming a running machine does nothing.
func (m *Machine) Resume(ctx context.Context) error {
	return m.call(ctx, "resume", &request{do: m.resume})
}

// Reset resets the machine in place, as its reset button does. A paused machine
// stays paused.
func (m *Machine) Reset(ctx context.Context) error {
	return m.call(ctx, "reset", &request{do: func() error { return m.reset("by request") }})
}

// PowerButton presses the ACPI power button. What the guest makes of it is its
// own affair; a paused machine sees it when it is resumed.
func (m *Machine) PowerButton(ctx context.Context) error {
	return m.call(ctx, "power button", &request{do: m.powerButton})
}

// Registers reads the state of every vCPU. The guest is held for the moment.
func (m *Machine) Registers(ctx context.Context) ([]hv.State, error) {
	var regs []hv.State // the goroutine's, until the call has succeeded
	if err := m.call(ctx, "registers", &request{do: func() (err error) { regs, err = m.registers(); return err }}); err != nil {
		return nil, err
	}
	return regs, nil
}

// Kill ends the machine at once, without asking the guest. It does not wait: Run
// returns soon. It may be called at any time, any number of times.
func (m *Machine) Kill() { m.ask(wantKill) }

// ask notes that w is wanted, takes every vCPU out of the guest, and wakes the
// machine's goroutine. It never blocks: vCPU threads call it from a device.
func (m *Machine) ask(w want) {
	for {
		old := m.wanted.Load()
		if old >= w {
			break
		}
		if m.wanted.CompareAndSwap(old, w) {
			break
		}
	}
	for _, c := range m.cpus {
		c.halt()
	}
	select {
	case m.attend <- struct{}{}:
	default:
	}
}

// Confine gives up what only New needed of the hypervisor, so that a process that
// is broken into has this machine and no way to another. Call it before Run, and
// then shut the process in. On FreeBSD such a process cannot take the machine out
// of the kernel: whoever started it calls RemoveLeftover when it has ended. A
// backend that is the caller's stays open.
func (m *Machine) Confine() error {
	if s := m.State(); s != Created {
		return fmt.Errorf("machine %q: confine: %w: %v", m.cfg.Name, ErrState, s)
	}
	var errs []error
	if c, ok := m.vm.(hv.Confiner); ok {
		errs = append(errs, c.Confine())
	}
	if c, ok := m.backend.(hv.Confiner); ok {
		errs = append(errs, c.Confine())
	} else if m.backend != nil {
		errs = append(errs, m.backend.Close())
		m.backend = nil
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("machine %q: confine: %w", m.cfg.Name, err)
	}
	return nil
}

// State tells where the machine is in its life.
func (m *Machine) State() State { return State(m.state.Load()) }

// Name returns the machine's name.
func (m *Machine) Name() string { return m.cfg.Name }

// SerialInput is what the guest reads from its first serial line. Write blocks
// while the guest does not take what was written; it fails with ErrEnded when
// the machine ends. Safe for concurrent use.
func (m *Machine) SerialInput() io.Writer { return m.parts.serialIn }

// ConsoleInput is the same for the virtio console; without one every Write fails
// with errors.ErrUnsupported.
func (m *Machine) ConsoleInput() io.Writer { return m.parts.consoleIn }

// Close takes the machine out of the kernel and frees its memory. A running one
// is killed first. Files of the configuration stay open. Safe to call twice.
func (m *Machine) Close() error {
	m.closeOnce.Do(func() {
		if m.state.CompareAndSwap(int32(Created), int32(Ended)) {
			m.haltDevices()
			close(m.ended)
		} else {
			m.Kill()
			<-m.ended
		}
		m.closeErr = m.release()
	})
	return m.closeErr
}

// release frees what New took, whether or not the machine has run.
func (m *Machine) release() error {
	var errs []error
	for i := len(m.devices) - 1; i >= 0; i-- {
		if c, ok := m.devices[i].(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
	m.devices = nil
	m.cfg.closeFiles()
	if m.vm != nil {
		errs = append(errs, m.vm.Close())
		m.vm = nil
	}
	if m.backend != nil {
		errs = append(errs, m.backend.Close())
		m.backend = nil
	}
	return errors.Join(errs...)
}

// Stats returns the machine's counters.
func (m *Machine) Stats() Stats {
	s := Stats{State: m.State(), Reboots: int(m.reboots.Load())}
	if t := m.started.Load(); t != 0 {
		s.Uptime = time.Since(time.Unix(0, t))
	}
	for _, c := range m.cpus {
		s.VCPUs = append(s.VCPUs, VCPUStats{PortAccesses: c.ports.Load(), MMIOAccesses: c.mmios.Load(), Kicks: c.kicks.Load()})
	}
	for _, d := range m.disks {
		s.Disks = append(s.Disks, d.Counters())
	}
	for _, n := range m.nics {
		s.NICs = append(s.NICs, n.Counters())
	}
	return s
}
