// SPDX-License-Identifier: BSD-2-Clause

package insn

import "math/bits"

// Bits of RFLAGS (Intel SDM vol. 1, 3.4.3).
const (
	flagCF = 1 << 0
	flagPF = 1 << 2
	flagAF = 1 << 4
	flagZF = 1 << 6
	flagSF = 1 << 7
	flagDF = 1 << 10
	flagOF = 1 << 11

	flagsStatus = flagCF | flagPF | flagAF | flagZF | flagSF | flagOF
)

// mask has the low size bytes set.
func mask(size int) uint64 { return ^uint64(0) >> (64 - 8*size) }

// sign is the highest bit of a value of size bytes.
func sign(size int) uint64 { return 1 << (8*size - 1) }

func signExtend(v uint64, size int) uint64 {
	shift := 64 - 8*size
	return uint64(int64(v<<shift) >> shift)
}

// resultFlags are PF, ZF and SF of a result.
func resultFlags(r uint64, size int) uint64 {
	var f uint64
	if bits.OnesCount8(uint8(r))%2 == 0 {
		f |= flagPF
	}
	if r&mask(size) == 0 {
		f |= flagZF
	}
	if r&sign(size) != 0 {
		f |= flagSF
	}
	return f
}

// add returns a+b+carry and the status flags.
func add(a, b, carry uint64, size int) (r, f uint64) {
	m := mask(size)
	a, b = a&m, b&m
	sum, over := bits.Add64(a, b, carry)
	if size < 8 {
		over = sum >> (8 * size) & 1
	}
	r = sum & m
	f = resultFlags(r, size) | over*flagCF | (a^b^r)&flagAF
	if (a^r)&(b^r)&sign(size) != 0 {
		f |= flagOF
	}
	return r, f
}

// sub returns a-b-borrow and the status flags.
func sub(a, b, borrow uint64, size int) (r, f uint64) {
	m := mask(size)
	a, b = a&m, b&m
	diff, under := bits.Sub64(a, b, borrow)
	r = diff & m
	f = resultFlags(r, size) | under*flagCF | (a^b^r)&flagAF
	if (a^b)&(a^r)&sign(size) != 0 {
		f |= flagOF
	}
	return r, f
}

// alu is one of the eight operations Add..Cmp, or Test: it returns a op b, the
// status flags, and whether the result is written.
func alu(op Op, a, b, flags uint64, size int) (r, f uint64, write bool) {
	carry := flags & flagCF
	write = true
	switch op {
	case Add:
		r, f = add(a, b, 0, size)
	case Adc:
		r, f = add(a, b, carry, size)
	case Sub:
		r, f = sub(a, b, 0, size)
	case Sbb:
		r, f = sub(a, b, carry, size)
	case Cmp:
		r, f = sub(a, b, 0, size)
		write = false
	case Or:
		r = (a | b) & mask(size)
		f = resultFlags(r, size)
	case And:
		r = a & b & mask(size)
		f = resultFlags(r, size)
	case Xor:
		r = (a ^ b) & mask(size)
		f = resultFlags(r, size)
	case Test:
		r = a & b & mask(size)
		f = resultFlags(r, size)
		write = false
	}
	return r, flags&^flagsStatus | f, write
}

// bextr takes from v the bits that control names: start in its bits 0-7, length
// in bits 8-15.
func bextr(v, control, flags uint64, size int) (r, f uint64) {
	start, n := control&0xff, control>>8&0xff
	v &= mask(size)
	if start < 64 {
		r = v >> start
	}
	if n < 64 {
		r &= 1<<n - 1
	}
	f = flags &^ (flagsStatus &^ (flagAF | flagSF | flagPF))
	f &^= flagCF | flagOF
	if r == 0 {
		f |= flagZF
	}
	return r, f
}
