// SPDX-License-Identifier: BSD-2-Clause

package insn

import (
	"errors"
	"fmt"
)

// ErrUnknown reports an instruction that is not in the tables: the guest did
// something to a device register that no known driver does.
var ErrUnknown = errors.New("instruction not known to the emulator")

// ErrTruncated reports that the bytes end before the instruction does.
var ErrTruncated = errors.New("instruction truncated")

// maxLen is the longest x86 instruction.
const maxLen = 15

// decoder is the state of one Decode.
type decoder struct {
	code []byte
	pos  int
	bits int
	in   Inst

	opsize, addrsize, repz, repnz bool
	rex, rexW, rexR, rexX, rexB   bool
	mod, reg, rm                  byte
	err                           error
}

// Decode decodes the instruction at the start of code. bits is the code
// segment's width: 16, 32 or 64. An instruction without a memory operand is
// ErrUnknown.
func Decode(code []byte, bits int) (Inst, error) {
	if bits != 16 && bits != 32 && bits != 64 {
		return Inst{}, fmt.Errorf("decode instruction: code width %d", bits)
	}
	if len(code) > maxLen {
		code = code[:maxLen]
	}
	d := decoder{code: code, bits: bits}
	d.prefixes()
	d.opcode()
	if d.err == nil && d.pos > len(d.code) {
		d.err = ErrTruncated
	}
	if d.err != nil {
		return Inst{}, fmt.Errorf("decode instruction % x: %w", code, d.err)
	}
	d.in.Len = d.pos
	return d.in, nil
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *decoder) next() byte {
	if d.pos >= len(d.code) {
		d.fail(ErrTruncated)
		return 0
	}
	b := d.code[d.pos]
	d.pos++
	return b
}

// immediate reads n bytes and extends their sign to 64 bits.
func (d *decoder) immediate(n int) uint64 {
	var v uint64
	for i := range n {
		v |= uint64(d.next()) << (8 * i)
	}
	return signExtend(v, n)
}

func (d *decoder) prefixes() {
	d.in.Seg = DS
	for d.err == nil {
		if d.pos >= len(d.code) {
			d.fail(ErrTruncated)
			return
		}
		switch b := d.code[d.pos]; b {
		case 0x66:
			d.opsize = true
		case 0x67:
			d.addrsize = true
		case 0xf3:
			d.repz, d.repnz = true, false
		case 0xf2:
			d.repnz, d.repz = true, false
		case 0xf0: // lock: a device register is accessed by one vCPU at a time anyway
		case 0x26, 0x2e, 0x36, 0x3e:
			if d.bits != 64 { // ignored in 64-bit mode
				d.in.Seg = Seg(b >> 3 & 3)
			}
		case 0x64, 0x65:
			d.in.Seg = Seg(b - 0x60)
		default:
			if d.bits == 64 && b&0xf0 == 0x40 {
				d.rex = true
				d.rexW, d.rexR, d.rexX, d.rexB = b&8 != 0, b&4 != 0, b&2 != 0, b&1 != 0
				d.pos++
			}
			d.sizes()
			return
		}
		d.pos++
	}
}

// sizes works out the operand and address width from the mode and prefixes.
func (d *decoder) sizes() {
	switch {
	case d.rexW:
		d.in.Size = 8
	case (d.bits == 16) != d.opsize:
		d.in.Size = 2
	default:
		d.in.Size = 4
	}
	switch {
	case d.bits == 64 && !d.addrsize:
		d.in.AddrSize = 8
	case d.bits == 16 && !d.addrsize, d.bits == 32 && d.addrsize:
		d.in.AddrSize = 2
	default:
		d.in.AddrSize = 4
	}
}

// modrm reads the ModRM byte with what follows it (SIB, displacement). A
// register operand is not for this package.
func (d *decoder) modrm() {
	b := d.next()
	d.mod, d.reg, d.rm = b>>6, b>>3&7, b&7
	if d.mod == 3 {
		d.fail(ErrUnknown)
		return
	}
	disp := 0
	if d.in.AddrSize == 2 {
		switch {
		case d.mod == 1:
			disp = 1
		case d.mod == 2, d.mod == 0 && d.rm == 6:
			disp = 2
		}
	} else {
		base := d.rm
		if d.rm == 4 {
			base = d.next() & 7
		}
		switch {
		case d.mod == 1:
			disp = 1
		case d.mod == 2, d.mod == 0 && base == 5:
			disp = 4
		}
	}
	for range disp {
		d.next()
	}
	r := d.reg
	if d.rexR {
		r |= 8
	}
	d.in.Reg = Reg(r)
}

// byteReg makes the register operand an 8-bit one: without REX, 4-7 are AH, CH,
// DH and BH.
func (d *decoder) byteReg() {
	if !d.rex && d.in.Reg >= 4 && d.in.Reg <= 7 {
		d.in.Reg -= 4
		d.in.High = true
	}
}

// width makes an instruction whose opcode's lowest bit is clear an 8-bit one.
func (d *decoder) width(op byte) {
	if op&1 == 0 {
		d.in.Size = 1
	}
}

// immSize is the width of a full-size immediate: four bytes for 64-bit operands.
func (d *decoder) immSize() int { return min(d.in.Size, 4) }

// regOp decodes "op r/m, r" or, with from srcMem, "op r, r/m".
func (d *decoder) regOp(op Op, opcode byte, from source) {
	d.in.Op, d.in.from = op, from
	d.width(opcode)
	d.modrm()
	if d.in.Size == 1 {
		d.byteReg()
	}
	d.in.RegSize = d.in.Size
}

func (d *decoder) opcode() {
	if d.err != nil {
		return
	}
	b := d.next()
	in := &d.in
	switch {
	case b < 0x40 && b&7 < 4:
		from := srcReg
		if b&2 != 0 {
			from = srcMem
		}
		d.regOp(Op(b>>3), b, from)
	case b == 0x0f:
		d.twoByte()
	case (b == 0xc4 || b == 0xc5) && d.bits != 16:
		d.vexOpcode(b)
	default:
		switch b {
		case 0x63: // movsxd
			if d.bits != 64 || in.Size == 2 { // vendors differ on the 16-bit form
				d.fail(ErrUnknown)
				return
			}
			in.Op, in.from, in.RegSize = Movsx, srcMem, in.Size
			d.modrm()
			in.Size = 4
		case 0x6e, 0x6f:
			d.stringOp(Outs, b)
			in.Size = min(in.Size, 4)
		case 0x80, 0x81, 0x83:
			d.width(b)
			d.modrm()
			in.Op, in.from = Op(d.reg), srcImm
			if b == 0x81 {
				in.Imm = d.immediate(d.immSize())
			} else {
				in.Imm = d.immediate(1)
			}
		case 0x84, 0x85:
			d.regOp(Test, b, srcReg)
		case 0x86, 0x87:
			d.regOp(Xchg, b, srcReg)
		case 0x88, 0x89:
			d.regOp(Mov, b, srcReg)
		case 0x8a, 0x8b:
			d.regOp(Mov, b, srcMem)
		case 0x8f:
			d.stackOp(Pop, 0)
		case 0xa0, 0xa1, 0xa2, 0xa3:
			in.Op, in.from, in.Reg = Mov, srcMem, RAX
			if b >= 0xa2 {
				in.from = srcReg
			}
			d.width(b)
			in.RegSize = in.Size
			for range in.AddrSize {
				d.next()
			}
		case 0xa4, 0xa5:
			d.stringOp(Movs, b)
		case 0xaa, 0xab:
			d.stringOp(Stos, b)
		case 0xac, 0xad:
			d.stringOp(Lods, b)
		case 0xc6, 0xc7:
			d.width(b)
			d.modrm()
			d.only(0)
			in.Op, in.from, in.Imm = Mov, srcImm, d.immediate(d.immSize())
		case 0xf6, 0xf7:
			d.group3(b)
		case 0xfe, 0xff:
			d.group5(b)
		default:
			d.fail(ErrUnknown)
		}
	}
}

// only fails unless the ModRM reg field, an opcode extension here, is n.
func (d *decoder) only(n byte) {
	if d.reg != n {
		d.fail(ErrUnknown)
	}
}

func (d *decoder) group3(b byte) {
	d.width(b)
	d.modrm()
	d.in.from = srcNone
	switch d.reg {
	case 0, 1:
		d.in.Op, d.in.from = Test, srcImm
		d.in.Imm = d.immediate(d.immSize())
	case 2:
		d.in.Op = Not
	case 3:
		d.in.Op = Neg
	default:
		d.fail(ErrUnknown)
	}
}

func (d *decoder) group5(b byte) {
	if d.pos < len(d.code) && d.code[d.pos]>>3&7 == 6 && b == 0xff {
		d.stackOp(Push, 6)
		return
	}
	d.width(b)
	d.modrm()
	d.in.from = srcNone
	switch d.reg {
	case 0:
		d.in.Op = Inc
	case 1:
		d.in.Op = Dec
	default:
		d.fail(ErrUnknown)
	}
}

// stackOp decodes push and pop of a memory operand: 64 bits wide in 64-bit mode
// unless made 16.
func (d *decoder) stackOp(op Op, ext byte) {
	d.in.Op, d.in.from = op, srcNone
	if d.bits == 64 && !d.opsize {
		d.in.Size = 8
	}
	d.modrm()
	d.only(ext)
}

func (d *decoder) stringOp(op Op, b byte) {
	d.in.Op, d.in.from = op, srcNone
	d.width(b)
	d.in.Rep = d.repz || d.repnz
}

func (d *decoder) twoByte() {
	b := d.next()
	in := &d.in
	switch b {
	case 0xae: // clflush (/7): a device register has no cache line
		d.modrm()
		d.only(7)
		in.Op, in.from = Clflush, srcNone
	case 0xb6, 0xb7, 0xbe, 0xbf:
		in.Op, in.from, in.RegSize = Movzx, srcMem, in.Size
		if b >= 0xbe {
			in.Op = Movsx
		}
		d.modrm()
		in.Size = 1 + int(b&1)
	case 0xba:
		d.modrm()
		if d.reg < 4 {
			d.fail(ErrUnknown)
			return
		}
		in.Op, in.from = Bt+Op(d.reg-4), srcImm
		in.Imm = d.immediate(1) & uint64(in.Size*8-1)
	case 0xb0, 0xb1:
		d.regOp(Cmpxchg, b, srcReg)
	case 0xc0, 0xc1:
		d.regOp(Xadd, b, srcReg)
	default:
		d.fail(ErrUnknown)
	}
}

// vexOpcode knows one VEX-encoded instruction, bextr (VEX.LZ.0F38 F7 /r), which
// compilers emit to take a field out of a device register.
func (d *decoder) vexOpcode(b byte) {
	p1 := d.next()
	if d.bits == 32 && p1&0xc0 != 0xc0 { // les, lds
		d.fail(ErrUnknown)
		return
	}
	if b == 0xc5 || d.rex || d.opsize || d.repz || d.repnz {
		d.fail(ErrUnknown)
		return
	}
	p2 := d.next()
	op := d.next()
	if p1&0x1f != 2 || op != 0xf7 || p2&7 != 0 { // 0F38 map, no L, no implied prefix
		d.fail(ErrUnknown)
		return
	}
	d.rexR = p1&0x80 == 0
	d.in.Size = 4
	if p2&0x80 != 0 && d.bits == 64 {
		d.in.Size = 8
	}
	d.modrm()
	d.in.Op, d.in.from, d.in.RegSize = Bextr, srcMem, d.in.Size
	d.in.Reg2 = Reg(^p2 >> 3 & 15)
	if d.bits != 64 {
		d.in.Reg &= 7
		d.in.Reg2 &= 7
	}
}
