// SPDX-License-Identifier: BSD-2-Clause

package kvm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// powerOn is the state that KVM gave to a new machine. A reset puts it back, so
// that what "reset" means is KVM's own word and not a table of ours.
type powerOn struct {
	chips [3]irqchip
	pit   pitState2
	vcpus []vcpuPowerOn
}

type vcpuPowerOn struct {
	regs   kregs
	sregs  ksregs
	mp     mpState
	lapic  lapicState
	events vcpuEvents
	debug  debugRegs
	fpu    xsave
	xcr    xcrs
	msrs   []msrEntry
}

// part is one piece of state with the requests that read and write it.
type part struct {
	name string
	get  func(fd int) error
	set  func(fd int) error
}

func piece[T any](name string, get, set uintptr, p *T) part {
	return part{name,
		func(fd int) error { _, err := ioctlPtr(fd, get, p); return err },
		func(fd int) error { _, err := ioctlPtr(fd, set, p); return err }}
}

// parts are in the order in which they are put back: the system registers hold
// the local APIC's base, on which the rest of that depends.
func (s *vcpuPowerOn) parts() []part {
	return []part{
		piece("MP state", kvmGetMPState, kvmSetMPState, &s.mp),
		piece("system registers", kvmGetSregs, kvmSetSregs, &s.sregs),
		piece("registers", kvmGetRegs, kvmSetRegs, &s.regs),
		piece("XCRs", kvmGetXCRs, kvmSetXCRs, &s.xcr),
		piece("FPU", kvmGetXSave, kvmSetXSave, &s.fpu),
		piece("debug registers", kvmGetDebugRegs, kvmSetDebugRegs, &s.debug),
		piece("local APIC", kvmGetLAPIC, kvmSetLAPIC, &s.lapic),
		piece("events", kvmGetVCPUEvents, kvmSetVCPUEvents, &s.events),
	}
}

func (s *powerOn) parts() []part {
	p := []part{piece("timer", kvmGetPIT2, kvmSetPIT2, &s.pit)}
	for i := range s.chips {
		s.chips[i].ChipID = uint32(i)
		p = append(p, piece(fmt.Sprintf("interrupt controller %d", i), kvmGetIRQChip, kvmSetIRQChip, &s.chips[i]))
	}
	return p
}

// take reads the state of a new machine.
func (s *powerOn) take(vm *VM, list []uint32) error {
	for _, p := range s.parts() {
		if err := p.get(vm.fd); err != nil {
			return fmt.Errorf("read %s: %w", p.name, err)
		}
	}
	s.vcpus = make([]vcpuPowerOn, len(vm.vcpus))
	for i, v := range vm.vcpus {
		for _, p := range s.vcpus[i].parts() {
			if err := p.get(v.fd); err != nil {
				return fmt.Errorf("vCPU %d: read %s: %w", i, p.name, err)
			}
		}
		s.vcpus[i].msrs = v.readMSRs(list)
	}
	return nil
}

// put writes it back.
func (s *powerOn) put(vm *VM) error {
	for i, v := range vm.vcpus {
		for _, p := range s.vcpus[i].parts() {
			if err := p.set(v.fd); err != nil {
				return fmt.Errorf("kvm: reset vCPU %d: %s: %w", i, p.name, err)
			}
		}
		if err := v.restoreMSRs(s.vcpus[i].msrs); err != nil {
			return err
		}
		v.run.immediate(false)
	}
	for _, p := range s.parts() {
		if err := p.set(vm.fd); err != nil {
			return fmt.Errorf("kvm: reset %s: %w", p.name, err)
		}
	}
	return nil
}

const msrTSC = 0x10

// readMSRs reads those of list that this vCPU has.
func (v *VCPU) readMSRs(list []uint32) []msrEntry {
	var out []msrEntry
	m := new(msrs)
	for len(list) > 0 {
		n := min(len(list), maxMSRs)
		m.Nmsrs = uint32(n)
		for i, x := range list[:n] {
			m.Entries[i] = msrEntry{Index: x}
		}
		got, err := ioctlPtr(v.fd, kvmGetMSRs, m)
		if err != nil {
			got = 0
		}
		out = append(out, m.Entries[:min(max(got, 0), n)]...)
		if got < n {
			got++ // the kernel stops at one that the vCPU has not
		}
		list = list[got:]
	}
	return out
}

// restoreMSRs writes those that have changed since they were read.
func (v *VCPU) restoreMSRs(want []msrEntry) error {
	list := make([]uint32, len(want))
	old := make(map[uint32]uint64, len(want))
	for i, e := range want {
		list[i] = e.Index
		old[e.Index] = e.Data
	}
	m := &msrs{Nmsrs: 1}
	for _, e := range v.readMSRs(list) {
		d, ok := old[e.Index]
		if e.Index == msrTSC {
			d, ok = 0, true
		}
		if !ok || e.Data == d {
			continue
		}
		m.Entries[0] = msrEntry{Index: e.Index, Data: d}
		if n, err := ioctlPtr(v.fd, kvmSetMSRs, m); err != nil {
			return fmt.Errorf("kvm: reset vCPU %d: MSR %#x: %w", v.id, e.Index, err)
		} else if n != 1 && !readOnlyMSR(e.Index) {
			return fmt.Errorf("kvm: reset vCPU %d: MSR %#x: %w: cannot be put back from %#x to %#x", v.id, e.Index, unix.EINVAL, e.Data, d)
		}
	}
	return nil
}

// readOnlyMSR tells those that count by themselves and take no value.
func readOnlyMSR(i uint32) bool {
	switch i {
	case 0xe7, 0xe8, // MPERF, APERF
		0x34: // SMI count
		return true
	}
	return i >= 0x40000000 && i < 0x40000200 // Hyper-V's: not offered
}
