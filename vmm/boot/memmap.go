// SPDX-License-Identifier: BSD-2-Clause

package boot

import "sort"

// Types of memory as firmware reports them (ACPI specification, 15 "System
// Address Map Interfaces"); FreeBSD's SMAP has the same.
const (
	TypeRAM      = 1
	TypeReserved = 2
)

// MapEntry is a line of the memory map.
type MapEntry struct {
	Base, Size uint64
	Type       uint32
}

// memoryMap is what an operating system is told: RAM without the PC's hole below
// 1 MiB and without what is reserved. Sorted by address, not overlapping.
func memoryMap(p Params) []MapEntry {
	res := append([]Range{{ebda, 0xa0000 - ebda}}, p.Reserved...)
	sort.Slice(res, func(i, j int) bool { return res[i].Base < res[j].Base })
	var out []MapEntry
	for _, ram := range []Range{{0, min(p.LowMem, 0xa0000)}, {1 << 20, max(p.LowMem, 1<<20) - 1<<20}, {HighBase, p.HighMem}} {
		at, end := ram.Base, ram.Base+ram.Size
		for _, r := range res {
			if r.Base+r.Size <= at || r.Base >= end {
				continue
			}
			if r.Base > at {
				out = append(out, MapEntry{at, r.Base - at, TypeRAM})
			}
			at = min(end, r.Base+r.Size)
		}
		if at < end {
			out = append(out, MapEntry{at, end - at, TypeRAM})
		}
	}
	for _, r := range res {
		out = append(out, MapEntry{r.Base, r.Size, TypeReserved})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Base < out[j].Base })
	return out
}
