// SPDX-License-Identifier: BSD-2-Clause

package insn

import "fmt"

// Reg is a register: 0-15 are the general registers in the processor's encoding.
type Reg uint8

// Registers by their encoding (Intel SDM vol. 2, 3.1.1.1).
const (
	RAX Reg = iota
	RCX
	RDX
	RBX
	RSP
	RBP
	RSI
	RDI
	R8
	R9
	R10
	R11
	R12
	R13
	R14
	R15
	RFLAGS
)

// Seg is a segment register in the processor's encoding.
type Seg uint8

// Segment registers by their encoding (Intel SDM vol. 2, appendix B, table B-8).
const (
	ES Seg = iota
	CS
	SS
	DS
	FS
	GS
)

// Op is what an instruction does.
type Op uint8

// The operations. Eight arithmetic ones come first, in the order in which the
// processor encodes them.
const (
	Add Op = iota
	Or
	Adc
	Sbb
	And
	Sub
	Xor
	Cmp
	Test
	Mov
	Movzx
	Movsx
	Xchg
	Xadd
	Cmpxchg
	Inc
	Dec
	Not
	Neg
	Push
	Pop
	Bt
	Bts
	Btr
	Btc
	Bextr
	Movs
	Stos
	Lods
	Outs
	Clflush
)

var opNames = [...]string{"add", "or", "adc", "sbb", "and", "sub", "xor", "cmp", "test", "mov", "movzx",
	"movsx", "xchg", "xadd", "cmpxchg", "inc", "dec", "not", "neg", "push", "pop", "bt", "bts", "btr", "btc",
	"bextr", "movs", "stos", "lods", "outs", "clflush"}

// String is the operation's mnemonic.
func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("op%d", uint8(o))
}

// source says where the operand that is not memory comes from or goes to.
type source uint8

const (
	srcReg  source = iota // register to memory, or both ways
	srcImm                // immediate to memory
	srcMem                // memory to register
	srcNone               // memory alone, or implicit operands
)

// Inst is one decoded instruction that has a memory operand.
type Inst struct {
	Op   Op
	Len  int // bytes, 1..15
	Size int // width of the memory operand: 1, 2, 4 or 8 bytes
	// RegSize is the width of the register operand where it differs (movzx).
	RegSize  int
	AddrSize int // 2, 4 or 8 bytes

	Reg  Reg // the register operand
	High bool
	Reg2 Reg // bextr: the control register
	Imm  uint64
	Seg  Seg  // segment of the memory operand (string instructions)
	Rep  bool // repeated by RCX

	from source
}

// String shows the instruction for a report.
func (in Inst) String() string {
	return fmt.Sprintf("%v size %d length %d", in.Op, in.Size, in.Len)
}
