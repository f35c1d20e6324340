// SPDX-License-Identifier: BSD-2-Clause

package guestmem

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Values that the guest and the VMM synchronise on (ring indices, flags) are
// loaded and stored atomically. Go has no 16-bit atomics: a 16-bit load or
// store that is aligned is a single instruction on amd64, and the surrounding
// 32-bit word is used for the ordering, which on amd64 an ordinary aligned
// access already has (loads are not reordered with loads, nor stores with
// stores); Fence gives the one order that it has not.

// word returns the aligned n bytes (2, 4 or 8) of RAM at gpa.
func (m *Memory) word(gpa, n uint64) (unsafe.Pointer, error) {
	b, err := m.Slice(gpa, n)
	if err != nil {
		return nil, err
	}
	p := unsafe.Pointer(unsafe.SliceData(b))
	if uintptr(p)%uintptr(n) != 0 {
		return nil, fmt.Errorf("guest memory %#x+%d: %w (misaligned)", gpa, n, ErrBounds)
	}
	return p, nil
}

// LoadU16 reads a little-endian 16-bit value that the guest may be writing.
// gpa must be even.
func (m *Memory) LoadU16(gpa uint64) (uint16, error) {
	p, err := m.word(gpa, 2)
	if err != nil {
		return 0, err
	}
	// The 32-bit word around it lies in the same page, thus in the same map.
	w := atomic.LoadUint32((*uint32)(unsafe.Pointer(uintptr(p) &^ 3)))
	return uint16(w >> (8 * (uintptr(p) & 2))), nil
}

// StoreU16 publishes a little-endian 16-bit value: whatever was written to
// guest memory before is seen by a guest that sees it. gpa must be even.
func (m *Memory) StoreU16(gpa uint64, v uint16) error {
	p, err := m.word(gpa, 2)
	if err != nil {
		return err
	}
	a, sh := (*uint32)(unsafe.Pointer(uintptr(p)&^3)), 8*(uintptr(p)&2)
	// The guest may own the neighbouring half: only ours may change.
	for range 1 << 20 {
		old := atomic.LoadUint32(a)
		if atomic.CompareAndSwapUint32(a, old, old&^(0xffff<<sh)|uint32(v)<<sh) {
			return nil
		}
	}
	return fmt.Errorf("guest memory %#x: the guest keeps rewriting the word being stored", gpa)
}

// LoadU32 reads a 32-bit value that the guest may be writing. gpa%4 must be 0.
func (m *Memory) LoadU32(gpa uint64) (uint32, error) {
	p, err := m.word(gpa, 4)
	if err != nil {
		return 0, err
	}
	return atomic.LoadUint32((*uint32)(p)), nil
}

// StoreU32 publishes a 32-bit value. gpa%4 must be 0.
func (m *Memory) StoreU32(gpa uint64, v uint32) error {
	p, err := m.word(gpa, 4)
	if err != nil {
		return err
	}
	atomic.StoreUint32((*uint32)(p), v)
	return nil
}

// LoadU64 reads a 64-bit value that the guest may be writing. gpa%8 must be 0.
func (m *Memory) LoadU64(gpa uint64) (uint64, error) {
	p, err := m.word(gpa, 8)
	if err != nil {
		return 0, err
	}
	return atomic.LoadUint64((*uint64)(p)), nil
}

// StoreU64 publishes a 64-bit value. gpa%8 must be 0.
func (m *Memory) StoreU64(gpa uint64, v uint64) error {
	p, err := m.word(gpa, 8)
	if err != nil {
		return err
	}
	atomic.StoreUint64((*uint64)(p), v)
	return nil
}

// Fence orders every earlier store before every later load: needed after
// publishing an index or flag and before looking whether the guest wants to be
// (or has) notified.
func Fence() {
	var x atomic.Uint32
	x.Swap(1)
}
