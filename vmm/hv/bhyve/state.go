// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"fmt"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
)

// stateRegs are the registers of hv.State in the order of registerSet, the
// segments' selectors last. CR0 and EFER come before CR4 and CR3: what may be
// written to one depends on another.
var stateRegs = [...]int32{
	abi.VM_REG_GUEST_RAX, abi.VM_REG_GUEST_RBX, abi.VM_REG_GUEST_RCX, abi.VM_REG_GUEST_RDX,
	abi.VM_REG_GUEST_RSI, abi.VM_REG_GUEST_RDI, abi.VM_REG_GUEST_RSP, abi.VM_REG_GUEST_RBP,
	abi.VM_REG_GUEST_R8, abi.VM_REG_GUEST_R9, abi.VM_REG_GUEST_R10, abi.VM_REG_GUEST_R11,
	abi.VM_REG_GUEST_R12, abi.VM_REG_GUEST_R13, abi.VM_REG_GUEST_R14, abi.VM_REG_GUEST_R15,
	abi.VM_REG_GUEST_RIP, abi.VM_REG_GUEST_RFLAGS,
	abi.VM_REG_GUEST_EFER, abi.VM_REG_GUEST_CR0, abi.VM_REG_GUEST_CR2, abi.VM_REG_GUEST_CR3, abi.VM_REG_GUEST_CR4,
	abi.VM_REG_GUEST_CS, abi.VM_REG_GUEST_DS, abi.VM_REG_GUEST_ES, abi.VM_REG_GUEST_FS, abi.VM_REG_GUEST_GS,
	abi.VM_REG_GUEST_SS, abi.VM_REG_GUEST_TR, abi.VM_REG_GUEST_LDTR,
}

const firstSelector = 23

// registerSet is the argument of the register ioctls, kept to be allocated once.
type registerSet struct {
	arg  abi.RegisterSet
	nums [len(stateRegs)]int32
	vals [len(stateRegs)]uint64
}

// fields are the members of s in the order of stateRegs, up to the selectors.
func fields(s *hv.State) [firstSelector]*uint64 {
	return [...]*uint64{
		&s.RAX, &s.RBX, &s.RCX, &s.RDX, &s.RSI, &s.RDI, &s.RSP, &s.RBP,
		&s.R8, &s.R9, &s.R10, &s.R11, &s.R12, &s.R13, &s.R14, &s.R15,
		&s.RIP, &s.RFLAGS, &s.EFER, &s.CR0, &s.CR2, &s.CR3, &s.CR4,
	}
}

func segments(s *hv.State) [len(stateRegs) - firstSelector]*hv.Segment {
	return [...]*hv.Segment{&s.CS, &s.DS, &s.ES, &s.FS, &s.GS, &s.SS, &s.TR, &s.LDTR}
}

// State reads the vCPU's registers.
func (v *vcpu) State() (hv.State, error) {
	v.run.Lock()
	defer v.run.Unlock()
	s, err := v.state()
	if err != nil {
		return hv.State{}, v.errorf("read state: %w", err)
	}
	return s, nil
}

func (v *vcpu) state() (s hv.State, err error) {
	if err := v.registers(abi.VM_GET_REGISTER_SET); err != nil {
		return s, err
	}
	for i, p := range fields(&s) {
		*p = v.set.vals[i]
	}
	for i, p := range segments(&s) {
		d := abi.SegDesc{Cpuid: int32(v.id), Regnum: stateRegs[firstSelector+i]}
		if err := call(v.vm.dev, abi.VM_GET_SEGMENT_DESCRIPTOR, &d); err != nil {
			return s, fmt.Errorf("read segment %d: %w", i, explain(err))
		}
		*p = hv.Segment{Selector: uint16(v.set.vals[firstSelector+i]), Base: d.Base, Limit: d.Limit, Access: d.Access}
	}
	for i, p := range []*hv.Table{&s.GDTR, &s.IDTR} {
		d := abi.SegDesc{Cpuid: int32(v.id), Regnum: tableRegs[i]}
		if err := call(v.vm.dev, abi.VM_GET_SEGMENT_DESCRIPTOR, &d); err != nil {
			return s, fmt.Errorf("read descriptor table %d: %w", i, explain(err))
		}
		*p = hv.Table{Base: d.Base, Limit: uint16(d.Limit)}
	}
	return s, nil
}

var tableRegs = [...]int32{abi.VM_REG_GUEST_GDTR, abi.VM_REG_GUEST_IDTR}

// SetState writes them.
func (v *vcpu) SetState(s *hv.State) error {
	v.run.Lock()
	defer v.run.Unlock()
	if err := v.setState(s); err != nil {
		return v.errorf("write state: %w", err)
	}
	return nil
}

func (v *vcpu) setState(s *hv.State) error {
	for i, p := range fields(s) {
		v.set.vals[i] = *p
	}
	for i, p := range segments(s) {
		v.set.vals[firstSelector+i] = uint64(p.Selector)
	}
	if err := v.registers(abi.VM_SET_REGISTER_SET); err != nil {
		return err
	}
	for i, p := range segments(s) {
		d := abi.SegDesc{Cpuid: int32(v.id), Regnum: stateRegs[firstSelector+i], Base: p.Base, Limit: p.Limit, Access: p.Access}
		if err := call(v.vm.dev, abi.VM_SET_SEGMENT_DESCRIPTOR, &d); err != nil {
			return fmt.Errorf("write segment %d: %w", i, explain(err))
		}
	}
	for i, p := range []*hv.Table{&s.GDTR, &s.IDTR} {
		d := abi.SegDesc{Cpuid: int32(v.id), Regnum: tableRegs[i], Base: p.Base, Limit: uint32(p.Limit)}
		if err := call(v.vm.dev, abi.VM_SET_SEGMENT_DESCRIPTOR, &d); err != nil {
			return fmt.Errorf("write descriptor table %d: %w", i, explain(err))
		}
	}
	return nil
}

// registers gets or sets all of stateRegs in one call.
func (v *vcpu) registers(req uint32) error {
	v.set.nums = stateRegs
	v.set.arg = abi.RegisterSet{Cpuid: int32(v.id), Count: uint32(len(stateRegs)), Regnums: &v.set.nums[0], Regvals: &v.set.vals[0]}
	if err := call(v.vm.dev, req, &v.set.arg); err != nil {
		return fmt.Errorf("registers: %w", explain(err))
	}
	return nil
}

// reset writes the state after a reset (Intel SDM vol. 3, 10.1.1), with CS:RIP
// where the processor begins.
func (v *vcpu) reset(rip uint64, selector uint16, base uint64) error {
	data := hv.Segment{Limit: 0xffff, Access: 0x93}
	s := hv.State{
		RIP: rip, RFLAGS: 2, RDX: 0xf00, CR0: 0x20, // NE: not to be changed under VMX
		CS: hv.Segment{Selector: selector, Base: base, Limit: 0xffff, Access: 0x93},
		DS: data, ES: data, FS: data, GS: data, SS: data,
		TR:   hv.Segment{Limit: 0xffff, Access: 0x8b},
		LDTR: hv.Segment{Limit: 0xffff, Access: 0x82},
		GDTR: hv.Table{Limit: 0xffff}, IDTR: hv.Table{Limit: 0xffff},
	}
	if err := v.setState(&s); err != nil {
		return err
	}
	for _, r := range []struct {
		n int32
		v uint64
	}{{abi.VM_REG_GUEST_DR6, 0xffff0ff0}, {abi.VM_REG_GUEST_DR7, 0x400}, {abi.VM_REG_GUEST_INTR_SHADOW, 0}} {
		if err := v.setReg(r.n, r.v); err != nil {
			return err
		}
	}
	return nil
}
