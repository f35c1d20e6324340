// SPDX-License-Identifier: BSD-2-Clause

package hv

import (
	"fmt"
	"strings"
)

// State is the architectural state of an x86-64 vCPU that skep reads and
// writes: general registers, control registers, segments and tables.
type State struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64

	CR0, CR2, CR3, CR4, EFER uint64

	CS, DS, ES, FS, GS, SS, TR, LDTR Segment
	GDTR, IDTR                       Table
}

// Segment is a segment register with its hidden part.
type Segment struct {
	Selector uint16
	Base     uint64
	Limit    uint32 // bytes, expanded (not in pages)
	// Access has the layout of bits 8-15 and 20-23 of a descriptor's upper
	// half, moved to 0-7 and 12-15 (Intel SDM vol. 3, 26.4.1 "Guest Register
	// State"): type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15; bit 16
	// marks the segment as unusable.
	Access uint32
}

// Unusable marks a segment register as holding none.
const Unusable = 1 << 16

// Table is a descriptor table register.
type Table struct {
	Base  uint64
	Limit uint16
}

// String prints the state in a few lines, as a crash report does.
func (s *State) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "rip=%016x rflags=%08x rsp=%016x rbp=%016x\n", s.RIP, s.RFLAGS, s.RSP, s.RBP)
	fmt.Fprintf(&b, "rax=%016x rbx=%016x rcx=%016x rdx=%016x\n", s.RAX, s.RBX, s.RCX, s.RDX)
	fmt.Fprintf(&b, "rsi=%016x rdi=%016x r8 =%016x r9 =%016x\n", s.RSI, s.RDI, s.R8, s.R9)
	fmt.Fprintf(&b, "r10=%016x r11=%016x r12=%016x r13=%016x\n", s.R10, s.R11, s.R12, s.R13)
	fmt.Fprintf(&b, "r14=%016x r15=%016x cr2=%016x cr3=%016x\n", s.R14, s.R15, s.CR2, s.CR3)
	fmt.Fprintf(&b, "cr0=%08x cr4=%08x efer=%08x gdt=%x/%x idt=%x/%x\n", s.CR0, s.CR4, s.EFER,
		s.GDTR.Base, s.GDTR.Limit, s.IDTR.Base, s.IDTR.Limit)
	for _, x := range []struct {
		n string
		s Segment
	}{{"cs", s.CS}, {"ds", s.DS}, {"es", s.ES}, {"fs", s.FS}, {"gs", s.GS}, {"ss", s.SS}, {"tr", s.TR}, {"ldt", s.LDTR}} {
		fmt.Fprintf(&b, "%-3s=%04x base=%016x limit=%08x access=%05x\n", x.n, x.s.Selector, x.s.Base, x.s.Limit, x.s.Access)
	}
	return b.String()
}
