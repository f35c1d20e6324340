// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/insn"
)

// env is a vCPU as package insn sees it during one exit.
type env struct {
	v      *vcpu
	h      hv.Handler
	paging abi.Paging
	bits   int
	trans  abi.Gla2gpa
}

var _ insn.Env = (*env)(nil)

// regOf maps the processor's encoding to the kernel's.
var regOf = [...]int32{
	insn.RAX: abi.VM_REG_GUEST_RAX, insn.RCX: abi.VM_REG_GUEST_RCX, insn.RDX: abi.VM_REG_GUEST_RDX, insn.RBX: abi.VM_REG_GUEST_RBX,
	insn.RSP: abi.VM_REG_GUEST_RSP, insn.RBP: abi.VM_REG_GUEST_RBP, insn.RSI: abi.VM_REG_GUEST_RSI, insn.RDI: abi.VM_REG_GUEST_RDI,
	insn.R8: abi.VM_REG_GUEST_R8, insn.R9: abi.VM_REG_GUEST_R9, insn.R10: abi.VM_REG_GUEST_R10, insn.R11: abi.VM_REG_GUEST_R11,
	insn.R12: abi.VM_REG_GUEST_R12, insn.R13: abi.VM_REG_GUEST_R13, insn.R14: abi.VM_REG_GUEST_R14, insn.R15: abi.VM_REG_GUEST_R15,
	insn.RFLAGS: abi.VM_REG_GUEST_RFLAGS,
}

var segOf = [...]int32{
	insn.ES: abi.VM_REG_GUEST_ES, insn.CS: abi.VM_REG_GUEST_CS, insn.SS: abi.VM_REG_GUEST_SS,
	insn.DS: abi.VM_REG_GUEST_DS, insn.FS: abi.VM_REG_GUEST_FS, insn.GS: abi.VM_REG_GUEST_GS,
}

func (e *env) Reg(r insn.Reg) (uint64, error)      { return e.v.getReg(regOf[r]) }
func (e *env) SetReg(r insn.Reg, val uint64) error { return e.v.setReg(regOf[r], val) }

func (e *env) SegBase(s insn.Seg) (uint64, error) {
	if e.bits == 64 && s != insn.FS && s != insn.GS {
		return 0, nil
	}
	d := abi.SegDesc{Cpuid: int32(e.v.id), Regnum: segOf[s]}
	if err := call(e.v.vm.dev, abi.VM_GET_SEGMENT_DESCRIPTOR, &d); err != nil {
		return 0, fmt.Errorf("read segment %d: %w", s, explain(err))
	}
	return d.Base, nil
}

func (e *env) Load(gpa uint64, size int) (uint64, error) {
	if b := e.v.vm.ram(gpa, size); b != nil {
		var w [8]byte
		copy(w[:], b)
		return binary.LittleEndian.Uint64(w[:]), nil
	}
	return e.h.MMIORead(gpa, size) & (^uint64(0) >> (64 - 8*size)), nil
}

func (e *env) Store(gpa uint64, size int, val uint64) error {
	if b := e.v.vm.ram(gpa, size); b != nil {
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], val)
		copy(b, w[:size])
		return nil
	}
	e.h.MMIOWrite(gpa, size, val&(^uint64(0)>>(64-8*size)))
	return nil
}

// translate walks the guest's page tables. insn.ErrFault means that the kernel
// has put a page fault on its way.
func (e *env) translate(addr uint64, prot int32) (uint64, error) {
	if e.bits != 64 {
		addr &= 1<<32 - 1
	}
	e.trans = abi.Gla2gpa{Vcpuid: int32(e.v.id), Prot: prot, Gla: addr, Paging: e.paging}
	if err := call(e.v.vm.dev, abi.VM_GLA2GPA, &e.trans); err != nil {
		return 0, fmt.Errorf("translate linear address %#x: %w", addr, explain(err))
	}
	if e.trans.Fault != 0 {
		return 0, insn.ErrFault
	}
	return e.trans.Gpa, nil
}

func (e *env) LoadLinear(addr uint64, size int) (uint64, error) {
	if addr%pageSize+uint64(size) > pageSize {
		var val uint64
		for i := range size { // across a page: byte by byte
			b, err := e.LoadLinear(addr+uint64(i), 1)
			if err != nil {
				return 0, err
			}
			val |= b << (8 * i)
		}
		return val, nil
	}
	gpa, err := e.translate(addr, abi.PROT_READ)
	if err != nil {
		return 0, err
	}
	return e.Load(gpa, size)
}

func (e *env) StoreLinear(addr uint64, size int, val uint64) error {
	if addr%pageSize+uint64(size) > pageSize {
		// Both pages must be there before the first byte is written.
		if _, err := e.translate(addr+uint64(size)-1, abi.PROT_WRITE); err != nil {
			return err
		}
		for i := range size {
			if err := e.StoreLinear(addr+uint64(i), 1, val>>(8*i)); err != nil {
				return err
			}
		}
		return nil
	}
	gpa, err := e.translate(addr, abi.PROT_WRITE)
	if err != nil {
		return err
	}
	return e.Store(gpa, size, val)
}

func (e *env) Out(port uint16, size int, val uint32) error {
	e.h.PortWrite(port, size, val)
	return nil
}

// maxPortRepeat bounds what one exit of a repeated INS or OUTS does.
const maxPortRepeat = 1024

// inoutString answers INS and OUTS. RIP has advanced; a count that remains makes
// the instruction run again.
func (v *vcpu) inoutString(s abi.InoutStr) error {
	switch s.Bytes {
	case 1, 2, 4:
	default:
		return fmt.Errorf("port string access of %d bytes", s.Bytes)
	}
	switch s.Addrsize {
	case 2, 4, 8:
	default:
		return fmt.Errorf("port string access with %d-byte addresses", s.Addrsize)
	}
	if s.SegName < abi.VM_REG_GUEST_ES || s.SegName > abi.VM_REG_GUEST_GS {
		return fmt.Errorf("port string access by register %d, which is no segment", s.SegName) // and has no base
	}
	v.env.paging = s.Paging
	v.env.bits = 32
	if s.Paging.CPUMode == abi.CPU_MODE_64BIT {
		v.env.bits = 64
	}
	mask := ^uint64(0) >> (64 - 8*s.Addrsize)
	base := s.SegBase
	if v.env.bits == 64 && s.SegName != abi.VM_REG_GUEST_FS && s.SegName != abi.VM_REG_GUEST_GS {
		base = 0
	}
	step := uint64(s.Bytes)
	if s.Rflags&(1<<10) != 0 { // DF
		step = -step
	}
	count, index := uint64(1), s.Index
	if s.Rep {
		count = s.Count & mask
	}
	n := min(count, maxPortRepeat)
	var done uint64
	var err error
	for ; done < n; done++ {
		addr := base + index&mask
		if s.In {
			// The page is looked at before the port is read: a fault must not
			// lose what a read takes out of a device.
			if _, err = v.env.translate(addr, abi.PROT_WRITE); err == nil {
				err = v.env.StoreLinear(addr, s.Bytes, uint64(v.env.h.PortRead(s.Port, s.Bytes)))
			}
		} else {
			var val uint64
			if val, err = v.env.LoadLinear(addr, s.Bytes); err == nil {
				v.env.h.PortWrite(s.Port, s.Bytes, uint32(val))
			}
		}
		if err != nil {
			break
		}
		index += step
	}
	if done > 0 {
		if err := v.advance(s, index, count-done, mask); err != nil {
			return err
		}
	}
	if errors.Is(err, insn.ErrFault) {
		return nil
	}
	if err == nil && done < count {
		return v.restart()
	}
	return err
}

// advance writes back the registers of a string instruction.
func (v *vcpu) advance(s abi.InoutStr, index, count, mask uint64) error {
	reg := int32(abi.VM_REG_GUEST_RSI)
	if s.In {
		reg = abi.VM_REG_GUEST_RDI
	}
	if err := v.mergeReg(reg, index, mask); err != nil {
		return err
	}
	if !s.Rep {
		return nil
	}
	return v.mergeReg(abi.VM_REG_GUEST_RCX, count, mask)
}

// mergeReg writes the part of a register that an address of that width changes:
// 32 bits clear the upper half, 16 leave it.
func (v *vcpu) mergeReg(n int32, val, mask uint64) error {
	if mask == 0xffff {
		old, err := v.getReg(n)
		if err != nil {
			return err
		}
		return v.setReg(n, old&^mask|val&mask)
	}
	return v.setReg(n, val&mask)
}
