// SPDX-License-Identifier: BSD-2-Clause

package insn

// stringState is what a string instruction walks along.
type stringState struct {
	count, si, di   uint64
	flags           uint64
	srcBase, esBase uint64
}

// execString runs up to maxRepeat iterations. Registers are written back after
// the last of them, also when one in the middle faults: the processor restarts a
// repeated instruction where it stood.
func (in *Inst) execString(env Env) (again bool, err error) {
	s, err := in.loadString(env)
	if err != nil {
		return false, err
	}
	if in.Rep && s.count == 0 {
		return false, nil
	}
	step := uint64(in.Size)
	if s.flags&flagDF != 0 {
		step = -step
	}
	n := uint64(1)
	if in.Rep {
		n = min(s.count, maxRepeat)
	}
	var done uint64
	for ; done < n; done++ {
		if err = in.stringStep(env, s); err != nil {
			break
		}
		m := mask(in.AddrSize)
		s.si, s.di = (s.si+step)&m, (s.di+step)&m
	}
	if done > 0 {
		if werr := in.storeString(env, s, done); werr != nil && err == nil {
			err = werr
		}
	}
	return in.Rep && done < s.count, err
}

func (in *Inst) loadString(env Env) (s stringState, err error) {
	m := mask(in.AddrSize)
	regs := []struct {
		r Reg
		p *uint64
	}{{RCX, &s.count}, {RSI, &s.si}, {RDI, &s.di}}
	for _, x := range regs {
		v, err := env.Reg(x.r)
		if err != nil {
			return s, err
		}
		*x.p = v & m
	}
	if s.flags, err = env.Reg(RFLAGS); err != nil {
		return s, err
	}
	if in.Op != Stos {
		if s.srcBase, err = env.SegBase(in.Seg); err != nil {
			return s, err
		}
	}
	if in.Op == Movs || in.Op == Stos {
		s.esBase, err = env.SegBase(ES)
	}
	return s, err
}

func (in *Inst) stringStep(env Env, s stringState) error {
	if in.Op == Stos {
		v, err := env.Reg(RAX)
		if err != nil {
			return err
		}
		return env.StoreLinear(s.esBase+s.di, in.Size, v&mask(in.Size))
	}
	v, err := env.LoadLinear(s.srcBase+s.si, in.Size)
	if err != nil {
		return err
	}
	switch in.Op {
	case Lods:
		return setReg(env, RAX, v, in.Size, false)
	case Outs:
		port, err := env.Reg(RDX)
		if err != nil {
			return err
		}
		return env.Out(uint16(port), in.Size, uint32(v))
	default:
		return env.StoreLinear(s.esBase+s.di, in.Size, v)
	}
}

func (in *Inst) storeString(env Env, s stringState, done uint64) error {
	if in.Op != Stos {
		if err := setReg(env, RSI, s.si, in.AddrSize, false); err != nil {
			return err
		}
	}
	if in.Op == Movs || in.Op == Stos {
		if err := setReg(env, RDI, s.di, in.AddrSize, false); err != nil {
			return err
		}
	}
	if !in.Rep {
		return nil
	}
	return setReg(env, RCX, s.count-done, in.AddrSize, false)
}
