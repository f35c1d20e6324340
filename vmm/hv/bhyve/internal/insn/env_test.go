// SPDX-License-Identifier: BSD-2-Clause

package insn

import (
	"encoding/binary"
	"fmt"
)

// testEnv is a vCPU with flat segments: [0, len(ram)) is RAM by linear and
// physical address alike, everything else a device of one register.
type testEnv struct {
	regs  [17]uint64
	ram   []byte
	dev   uint64
	trace []string
	fault map[uint64]bool // linear addresses that fault
}

func newEnv() *testEnv {
	e := &testEnv{ram: make([]byte, 0x4000), fault: map[uint64]bool{}}
	for i := range 16 {
		e.regs[i] = 0x1111111111111111 * uint64(i+1)
	}
	e.regs[RFLAGS] = 2
	return e
}

const device = 0xfee0_1000

func (e *testEnv) Reg(r Reg) (uint64, error) { return e.regs[r], nil }
func (e *testEnv) SetReg(r Reg, v uint64) error {
	e.regs[r] = v
	return nil
}
func (e *testEnv) SegBase(Seg) (uint64, error) { return 0, nil }

func (e *testEnv) Load(gpa uint64, size int) (uint64, error) {
	if gpa+uint64(size) <= uint64(len(e.ram)) {
		var b [8]byte
		copy(b[:size], e.ram[gpa:])
		return binary.LittleEndian.Uint64(b[:]), nil
	}
	e.trace = append(e.trace, fmt.Sprintf("r%d", size))
	return e.dev & mask(size), nil
}

func (e *testEnv) Store(gpa uint64, size int, v uint64) error {
	if gpa+uint64(size) <= uint64(len(e.ram)) {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], v)
		copy(e.ram[gpa:gpa+uint64(size)], b[:])
		return nil
	}
	e.trace = append(e.trace, fmt.Sprintf("w%d=%x", size, v))
	e.dev = e.dev&^mask(size) | v&mask(size)
	return nil
}

func (e *testEnv) LoadLinear(a uint64, size int) (uint64, error) {
	if e.fault[a] {
		return 0, ErrFault
	}
	return e.Load(a, size)
}

func (e *testEnv) StoreLinear(a uint64, size int, v uint64) error {
	if e.fault[a] {
		return ErrFault
	}
	return e.Store(a, size, v)
}

func (e *testEnv) Out(port uint16, size int, v uint32) error {
	e.trace = append(e.trace, fmt.Sprintf("out%d %x=%x", size, port, v))
	return nil
}
