// SPDX-License-Identifier: BSD-2-Clause

package vmm

import (
	"errors"
	"fmt"
	"io"

	"github.com/skepvm/skep/vmm/acpi"
	"github.com/skepvm/skep/vmm/chipset"
	"github.com/skepvm/skep/vmm/guestmem"
	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/pci"
	"github.com/skepvm/skep/vmm/virtio/console"
)

// parts are the pieces of a machine that Machine's methods reach for.
type parts struct {
	serialIn, consoleIn io.Writer
	powerButton         func()
	tables              []*acpi.Tables
}

// loadTables writes the firmware's tables.
func (p *parts) loadTables(mem *guestmem.Memory) error {
	for _, t := range p.tables {
		if err := t.Load(mem); err != nil {
			return err
		}
	}
	return nil
}

// noInput is the input of a line that the machine does not have.
type noInput struct{ what string }

func (n noInput) Write([]byte) (int, error) {
	return 0, fmt.Errorf("%s: %w: the machine has none", n.what, errors.ErrUnsupported)
}

// input is the host's end of a line of the guest's.
type input struct {
	m    *Machine
	what string
	w    io.Writer
}

func (i input) Write(p []byte) (int, error) {
	n, err := i.w.Write(p)
	if errors.Is(err, chipset.ErrHalted) || errors.Is(err, console.ErrClosed) {
		err = ErrEnded
	}
	if err != nil {
		err = fmt.Errorf("machine %q: %s: %w", i.m.cfg.Name, i.what, err)
	}
	return n, err
}

// assemble makes the devices, puts them on their buses and builds the tables
// that tell the guest of them.
func (m *Machine) assemble() error {
	m.parts.consoleIn = noInput{"virtio console"}
	c, err := m.addChipset()
	if err != nil {
		return err
	}
	layout := pciLayout()
	host, err := pci.NewHost(pci.HostConfig{VM: m.vm, Ports: &m.ports, MMIO: &m.mmio, Layout: layout})
	if err != nil {
		return err
	}
	m.devices = append(m.devices, hostDevice{host})
	host.SetResetPort(c.ResetControl)
	if err := m.addVirtio(host); err != nil {
		return err
	}
	if err := host.AssignBARs(); err != nil {
		return err
	}
	return m.buildTables(layout)
}

// hostDevice is the root complex as a device: it has nothing but registers.
type hostDevice struct{ *pci.Host }

func (hostDevice) Start() error  { return nil }
func (hostDevice) Pause() error  { return nil }
func (hostDevice) Resume() error { return nil }
func (hostDevice) Halt()         {}

func (m *Machine) addChipset() (*chipset.Chipset, error) {
	c, err := chipset.New(chipset.Config{
		SetIRQ:       m.setIRQ,
		COM1:         m.cfg.Serial,
		KernelTimers: m.kernelTimers,
		LowMem:       m.params.LowMem,
		HighMem:      m.params.HighMem,
		Reset:        func() { m.ask(wantReset) },
		PowerOff:     func() { m.ask(wantPowerOff) },
	})
	if err != nil {
		return nil, err
	}
	m.devices = append(m.devices, c)
	m.parts.serialIn = input{m, "serial input", c.COM1.Input()}
	m.parts.powerButton = func() { c.PM.PowerButton() }
	return c, c.Map(&m.ports)
}

// setIRQ drives an interrupt line. A failure means that the machine is gone.
func (m *Machine) setIRQ(line int, level bool) {
	if err := m.vm.SetIRQ(line, level); err != nil {
		m.cfg.Log.Error("interrupt line", "line", line, "error", err)
	}
}

func (m *Machine) buildTables(l pci.Layout) error {
	var hpet uint32
	if h, ok := m.vm.(hv.HPETer); ok {
		hpet = h.HPET()
	}
	t, err := acpi.Build(acpi.Config{
		CPUs: m.cfg.CPUs,
		// Keyboard stays false: the controller is there for its reset line, and
		// a guest that is not told of it loses no time with probing it.
		COM1:  true,
		IO:    acpi.Window(l.IO),
		Mem32: acpi.Window(l.Mem32),
		Mem64: acpi.Window(l.Mem64),
		ECAM:  l.ECAM,
		Buses: l.Buses,
		GSI:   func(slot, pin int) int { return pci.GSI(slot, pin) },
		HPET:  hpet,
	})
	if err != nil {
		return err
	}
	topo := m.cfg.Topology
	s, err := acpi.BuildSMBIOS(acpi.SMBIOS{Manufacturer: "skep", Product: "virtual machine", Sockets: topo.Sockets, Cores: topo.Cores,
		Threads: topo.Threads, LowMem: m.params.LowMem, HighMem: m.params.HighMem})
	if err != nil {
		return err
	}
	m.parts.tables = []*acpi.Tables{t, s}
	m.params.RSDP = t.RSDP
	return nil
}
