// SPDX-License-Identifier: BSD-2-Clause

package bus

import (
	"fmt"
	"slices"
)

// Reg is one register of a RegMap.
type Reg struct {
	Off, Size int // bytes; Size is 1, 2, 4 or 8
	// Read answers the whole register; nil reads as zero.
	Read func() uint64
	// Write gets the bits that the guest writes, already at their place in the
	// register, and a mask of ones over them; nil makes the register read-only.
	Write func(v, mask uint64)
	// Part allows a write of a part of the register. Without it only a write
	// of the whole counts, or of an aligned 32-bit half of an 8-byte register.
	Part bool
}

// RegMap is a Device made of registers: one helper checks offset and width of
// every access so that no device does. Bytes between registers read as zero,
// and a write that touches anything but exactly one register's allowed part is
// ignored.
type RegMap struct{ regs []Reg }

// NewRegMap makes a map of regs. It panics where they overlap or a size is
// wrong, which is a mistake in the program.
func NewRegMap(regs ...Reg) *RegMap {
	regs = slices.Clone(regs)
	slices.SortFunc(regs, func(a, b Reg) int { return a.Off - b.Off })
	end := 0
	for _, r := range regs {
		if r.Off < end || r.Size != 1 && r.Size != 2 && r.Size != 4 && r.Size != 8 {
			panic(fmt.Sprintf("register map: register at %#x of %d bytes", r.Off, r.Size))
		}
		end = r.Off + r.Size
	}
	return &RegMap{regs}
}

// Read gathers size bytes at off from every register that holds some of them.
func (m *RegMap) Read(off uint64, size int) uint64 {
	var v uint64
	for i := range m.regs {
		r := &m.regs[i]
		lo, hi := max(int64(off), int64(r.Off)), min(int64(off)+int64(size), int64(r.Off+r.Size))
		if lo >= hi || r.Read == nil || int64(off) < 0 {
			continue
		}
		part := r.Read() >> (8 * uint(lo-int64(r.Off))) & ones(int(hi-lo))
		v |= part << (8 * uint(lo-int64(off)))
	}
	return v
}

// Write carries out a write of one register or of its allowed part.
func (m *RegMap) Write(off uint64, size int, v uint64) {
	for i := range m.regs {
		r := &m.regs[i]
		if off < uint64(r.Off) || off+uint64(size) > uint64(r.Off+r.Size) || off+uint64(size) < off {
			continue
		}
		in := int(off) - r.Off
		half := r.Size == 8 && size == 4 && in%4 == 0
		if r.Write != nil && (size == r.Size || half || r.Part) {
			sh := 8 * uint(in)
			r.Write(v&ones(size)<<sh, ones(size)<<sh)
		}
		return
	}
}

func ones(size int) uint64 { return ^uint64(0) >> (64 - 8*uint(size)) }
