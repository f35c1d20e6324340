// SPDX-License-Identifier: BSD-2-Clause

package kvm

import "github.com/skepvm/skep/vmm/hv"

func (r *kregs) state() *hv.State {
	return &hv.State{
		RAX: r.RAX, RBX: r.RBX, RCX: r.RCX, RDX: r.RDX, RSI: r.RSI, RDI: r.RDI, RSP: r.RSP, RBP: r.RBP,
		R8: r.R8, R9: r.R9, R10: r.R10, R11: r.R11, R12: r.R12, R13: r.R13, R14: r.R14, R15: r.R15,
		RIP: r.RIP, RFLAGS: r.RFLAGS,
	}
}

func (r *kregs) from(s *hv.State) {
	*r = kregs{
		RAX: s.RAX, RBX: s.RBX, RCX: s.RCX, RDX: s.RDX, RSI: s.RSI, RDI: s.RDI, RSP: s.RSP, RBP: s.RBP,
		R8: s.R8, R9: s.R9, R10: s.R10, R11: s.R11, R12: s.R12, R13: s.R13, R14: s.R14, R15: s.R15,
		RIP: s.RIP, RFLAGS: s.RFLAGS | 2, // bit 1 is always set
	}
}

func (s *ksregs) to(x *hv.State) {
	x.CR0, x.CR2, x.CR3, x.CR4, x.EFER = s.CR0, s.CR2, s.CR3, s.CR4, s.EFER
	for i, g := range s.segments() {
		*segments(x)[i] = g.segment()
	}
	x.GDTR = hv.Table{Base: s.GDT.Base, Limit: s.GDT.Limit}
	x.IDTR = hv.Table{Base: s.IDT.Base, Limit: s.IDT.Limit}
}

func (s *ksregs) from(x *hv.State) {
	s.CR0, s.CR2, s.CR3, s.CR4, s.EFER = x.CR0, x.CR2, x.CR3, x.CR4, x.EFER
	for i, g := range segments(x) {
		s.segments()[i].from(*g)
	}
	s.GDT = kdtable{Base: x.GDTR.Base, Limit: x.GDTR.Limit}
	s.IDT = kdtable{Base: x.IDTR.Base, Limit: x.IDTR.Limit}
	s.InterruptBitmap = [4]uint64{}
}

func (s *ksregs) segments() [8]*ksegment {
	return [8]*ksegment{&s.CS, &s.DS, &s.ES, &s.FS, &s.GS, &s.SS, &s.TR, &s.LDT}
}

func segments(x *hv.State) [8]*hv.Segment {
	return [8]*hv.Segment{&x.CS, &x.DS, &x.ES, &x.FS, &x.GS, &x.SS, &x.TR, &x.LDTR}
}

func (g *ksegment) segment() hv.Segment {
	a := uint32(g.Type&15) | uint32(g.S&1)<<4 | uint32(g.DPL&3)<<5 | uint32(g.Present&1)<<7 |
		uint32(g.AVL&1)<<12 | uint32(g.L&1)<<13 | uint32(g.DB&1)<<14 | uint32(g.G&1)<<15
	if g.Unusable != 0 {
		a |= hv.Unusable
	}
	return hv.Segment{Selector: g.Selector, Base: g.Base, Limit: g.Limit, Access: a}
}

func (g *ksegment) from(s hv.Segment) {
	bit := func(n int) uint8 { return uint8(s.Access >> n & 1) }
	*g = ksegment{Base: s.Base, Limit: s.Limit, Selector: s.Selector, Type: uint8(s.Access & 15), S: bit(4), DPL: uint8(s.Access >> 5 & 3),
		Present: bit(7), AVL: bit(12), L: bit(13), DB: bit(14), G: bit(15), Unusable: bit(16)}
}
