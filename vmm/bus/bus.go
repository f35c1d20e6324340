// SPDX-License-Identifier: BSD-2-Clause

package bus

import (
	"errors"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
)

// ErrOverlap is wrapped by Map when the range is taken.
var ErrOverlap = errors.New("range overlaps another device's")

// Device is what stands behind a range. off is relative to the range's start
// and off+size never passes its end; size is 1, 2, 4 or 8 bytes; values are
// little-endian in the low bits. Called on vCPU threads, several at once; the
// device does its own locking.
type Device interface {
	Read(off uint64, size int) uint64
	Write(off uint64, size int, v uint64)
}

// Bus is one address space: the 64 KiB of ports, or guest-physical memory that
// is not RAM. The zero value is an empty bus ready to use.
type Bus struct {
	mu     sync.Mutex              // writers only
	ranges atomic.Pointer[[]entry] // sorted by base; replaced whole, never changed
}

type entry struct {
	base, last uint64 // inclusive
	dev        Device
}

// Map puts dev at [base, base+size). It fails with ErrOverlap, leaving the bus
// as it was.
func (b *Bus) Map(base, size uint64, dev Device) error {
	if size == 0 || base+size-1 < base {
		return fmt.Errorf("map device at %#x: bad size %#x", base, size)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.load()
	n := entry{base, base + size - 1, dev}
	for _, e := range old {
		if n.base <= e.last && e.base <= n.last {
			return fmt.Errorf("map device at [%#x, %#x]: %w [%#x, %#x]", n.base, n.last, ErrOverlap, e.base, e.last)
		}
	}
	list := append(append(make([]entry, 0, len(old)+1), old...), n)
	sort.Slice(list, func(i, j int) bool { return list[i].base < list[j].base })
	b.ranges.Store(&list)
	return nil
}

// Unmap takes away the range that begins at base. An access that is in progress
// on another thread may still reach the device after Unmap returns.
func (b *Bus) Unmap(base uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.load()
	list := make([]entry, 0, len(old))
	for _, e := range old {
		if e.base != base {
			list = append(list, e)
		}
	}
	b.ranges.Store(&list)
}

func (b *Bus) load() []entry {
	if p := b.ranges.Load(); p != nil {
		return *p
	}
	return nil
}

// find returns the entry that holds all of [addr, addr+size).
func (b *Bus) find(addr uint64, size int) (entry, bool) {
	list := b.load()
	i := sort.Search(len(list), func(i int) bool { return list[i].last >= addr })
	if i == len(list) || list[i].base > addr || list[i].last-addr < uint64(size-1) {
		return entry{}, false
	}
	return list[i], true
}

// Read answers a guest's read of size bytes. ok is false where no device holds
// the whole access; the value is then all ones, as on an empty bus.
func (b *Bus) Read(addr uint64, size int) (v uint64, ok bool) {
	mask := ^uint64(0) >> (64 - 8*uint(size))
	e, ok := b.find(addr, size)
	if !ok {
		return mask, false
	}
	return e.dev.Read(addr-e.base, size) & mask, true
}

// Write carries out a guest's write. ok is false where no device holds the
// whole access; the write is then lost, as on an empty bus.
func (b *Bus) Write(addr uint64, size int, v uint64) (ok bool) {
	e, ok := b.find(addr, size)
	if ok {
		e.dev.Write(addr-e.base, size, v&(^uint64(0)>>(64-8*uint(size))))
	}
	return ok
}
