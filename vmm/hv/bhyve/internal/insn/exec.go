// SPDX-License-Identifier: BSD-2-Clause

package insn

import (
	"errors"
	"fmt"
)

// ErrFault is returned by an Env when the access raised a fault that is already
// on its way into the guest: the instruction is to run again after it.
var ErrFault = errors.New("fault injected into the guest")

// Env is what an instruction may touch of its vCPU. Values are in the low bytes;
// what lies above size bytes is ignored on the way in and zero on the way out.
type Env interface {
	Reg(Reg) (uint64, error)
	SetReg(Reg, uint64) error
	// SegBase is the base address of a segment (zero for most in 64-bit mode).
	SegBase(Seg) (uint64, error)
	// Load and Store access guest-physical memory, the device.
	Load(gpa uint64, size int) (uint64, error)
	Store(gpa uint64, size int, v uint64) error
	// LoadLinear and StoreLinear access memory by linear address, through the
	// guest's page tables, whether a device or RAM lies there.
	LoadLinear(addr uint64, size int) (uint64, error)
	StoreLinear(addr uint64, size int, v uint64) error
	// Out writes an I/O port.
	Out(port uint16, size int, v uint32) error
}

// maxRepeat bounds the iterations of a repeated string instruction in one Exec.
const maxRepeat = 512

// Exec executes the instruction, whose memory operand lies at guest-physical
// address gpa. It leaves RIP alone. again says that a repeated instruction has
// iterations left: it must be run again with the registers as they are now.
func (in *Inst) Exec(env Env, gpa uint64) (again bool, err error) {
	switch in.Op {
	case Movs, Stos, Lods, Outs:
		again, err = in.execString(env)
	case Push, Pop:
		err = in.execStack(env, gpa)
	case Mov, Movzx, Movsx:
		err = in.execMov(env, gpa)
	case Clflush:
	default:
		err = in.execModify(env, gpa)
	}
	if err != nil {
		return false, fmt.Errorf("execute %v: %w", in, err)
	}
	return again, nil
}

// operand is the value of the operand that is not memory.
func (in *Inst) operand(env Env) (uint64, error) {
	if in.from == srcImm {
		return in.Imm & mask(in.Size), nil
	}
	v, err := env.Reg(in.Reg)
	if err != nil {
		return 0, err
	}
	if in.High {
		v >>= 8
	}
	return v & mask(in.Size), nil
}

// setReg writes a register of the given width as the processor does: 32 bits
// clear the upper half, 8 and 16 bits leave the rest alone.
func setReg(env Env, r Reg, v uint64, size int, high bool) error {
	if size == 4 {
		return env.SetReg(r, v&mask(4))
	}
	if size == 8 {
		return env.SetReg(r, v)
	}
	old, err := env.Reg(r)
	if err != nil {
		return err
	}
	m := mask(size)
	if high {
		return env.SetReg(r, old&^(m<<8)|v&m<<8)
	}
	return env.SetReg(r, old&^m|v&m)
}

func (in *Inst) execMov(env Env, gpa uint64) error {
	if in.from != srcMem {
		v, err := in.operand(env)
		if err != nil {
			return err
		}
		return env.Store(gpa, in.Size, v)
	}
	v, err := env.Load(gpa, in.Size)
	if err != nil {
		return err
	}
	v &= mask(in.Size)
	if in.Op == Movsx {
		v = signExtend(v, in.Size)
	}
	return setReg(env, in.Reg, v, in.RegSize, in.High)
}

// execModify executes what reads memory, computes, sets flags and may write.
func (in *Inst) execModify(env Env, gpa uint64) error {
	mem, err := env.Load(gpa, in.Size)
	if err != nil {
		return err
	}
	mem &= mask(in.Size)
	flags, err := env.Reg(RFLAGS)
	if err != nil {
		return err
	}
	var operand uint64
	if in.from != srcNone {
		if operand, err = in.operand(env); err != nil {
			return err
		}
	}
	newFlags := flags
	switch in.Op {
	case Xchg:
		if err := env.Store(gpa, in.Size, operand); err != nil {
			return err
		}
		return setReg(env, in.Reg, mem, in.Size, in.High)
	case Xadd:
		var r uint64
		r, newFlags, _ = alu(Add, mem, operand, flags, in.Size)
		if err := env.Store(gpa, in.Size, r); err != nil {
			return err
		}
		if err := setReg(env, in.Reg, mem, in.Size, in.High); err != nil {
			return err
		}
	case Cmpxchg:
		if newFlags, err = in.compareExchange(env, gpa, mem, operand, flags); err != nil {
			return err
		}
	case Inc, Dec, Not, Neg:
		var r uint64
		r, newFlags = unary(in.Op, mem, flags, in.Size)
		if err := env.Store(gpa, in.Size, r); err != nil {
			return err
		}
	case Bt, Bts, Btr, Btc:
		bit := uint64(1) << operand
		newFlags = flags &^ flagCF
		if mem&bit != 0 {
			newFlags |= flagCF
		}
		r := mem
		switch in.Op {
		case Bts:
			r |= bit
		case Btr:
			r &^= bit
		case Btc:
			r ^= bit
		}
		if in.Op != Bt {
			if err := env.Store(gpa, in.Size, r); err != nil {
				return err
			}
		}
	case Bextr:
		control, err := env.Reg(in.Reg2)
		if err != nil {
			return err
		}
		var r uint64
		r, newFlags = bextr(mem, control, flags, in.Size)
		if err := setReg(env, in.Reg, r, in.Size, false); err != nil {
			return err
		}
	default:
		a, b := mem, operand
		if in.from == srcMem {
			a, b = operand, mem
		}
		r, f, write := alu(in.Op, a, b, flags, in.Size)
		newFlags = f
		switch {
		case !write:
		case in.from == srcMem:
			if err := setReg(env, in.Reg, r, in.Size, in.High); err != nil {
				return err
			}
		default:
			if err := env.Store(gpa, in.Size, r); err != nil {
				return err
			}
		}
	}
	if newFlags == flags {
		return nil
	}
	return env.SetReg(RFLAGS, newFlags)
}

// unary is inc, dec, not or neg.
func unary(op Op, v, flags uint64, size int) (r, f uint64) {
	switch op {
	case Inc:
		r, f = add(v, 1, 0, size)
	case Dec:
		r, f = sub(v, 1, 0, size)
	case Neg:
		r, f = sub(0, v, 0, size)
		return r, flags&^flagsStatus | f
	default:
		return ^v & mask(size), flags
	}
	keep := uint64(flagsStatus &^ flagCF) // inc and dec leave the carry alone
	return r, flags&^keep | f&keep
}

func (in *Inst) compareExchange(env Env, gpa, mem, operand, flags uint64) (uint64, error) {
	acc, err := env.Reg(RAX)
	if err != nil {
		return 0, err
	}
	_, newFlags, _ := alu(Cmp, acc, mem, flags, in.Size)
	if acc&mask(in.Size) == mem {
		return newFlags, env.Store(gpa, in.Size, operand)
	}
	if err := env.Store(gpa, in.Size, mem); err != nil { // the processor writes in both cases
		return 0, err
	}
	return newFlags, setReg(env, RAX, mem, in.Size, false)
}

// execStack is push and pop of a device register: the other side is the stack.
func (in *Inst) execStack(env Env, gpa uint64) error {
	base, err := env.SegBase(SS)
	if err != nil {
		return err
	}
	sp, err := env.Reg(RSP)
	if err != nil {
		return err
	}
	// The stack's width is taken from the address size, as a flat guest has it.
	m := mask(in.AddrSize)
	if in.Op == Push {
		v, err := env.Load(gpa, in.Size)
		if err != nil {
			return err
		}
		top := (sp - uint64(in.Size)) & m
		if err := env.StoreLinear(base+top, in.Size, v); err != nil {
			return err
		}
		return setReg(env, RSP, top, in.AddrSize, false)
	}
	v, err := env.LoadLinear(base+sp&m, in.Size)
	if err != nil {
		return err
	}
	if err := env.Store(gpa, in.Size, v); err != nil {
		return err
	}
	return setReg(env, RSP, (sp+uint64(in.Size))&m, in.AddrSize, false)
}
