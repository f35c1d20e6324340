// SPDX-License-Identifier: BSD-2-Clause

package vmm

import (
	"github.com/skepvm/skep/vmm/boot"
	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/pci"
)

// The guest-physical address space. RAM lies below the hole and from 4 GiB on;
// in between are PCI's windows and the processor's own devices.
//
//	0          .. 3 GiB at most   low RAM
//	  0xe0000  .. 1 MiB             ACPI tables, SMBIOS (reserved)
//	0xc0000000 .. 0xe0000000      PCI 32-bit memory
//	0xe0000000 .. 0xe0100000      ECAM
//	0xfec00000                    I/O APIC
//	0xfee00000                    local APICs
//	0xfef00000 .. 0xff000000      the hypervisor's own pages (KVM: identity map, TSS)
//	0xff000000 .. 4 GiB           room for a boot ROM
//	4 GiB      .. 4 GiB + high    high RAM
//	after it                      PCI 64-bit memory
const (
	holeBase = 3 << 30

	tableBase, tableSize = 0xe0000, 0x20000
	ecamBase, ecamSize   = 0xe0000000, 1 << 20 // bus 0 alone
)

// pciLayout is PCI's part of the map. There is one bus: a guest that scans more
// would only lose time.
func pciLayout() pci.Layout {
	l := pci.DefaultLayout()
	l.ECAM, l.Buses = ecamBase, ecamSize>>20
	return l
}

// split divides the RAM of a machine into that below the hole and that above.
func split(memory uint64) (low, high uint64) {
	low = min(memory, holeBase)
	return low, memory - low
}

func memoryRegions(low, high uint64) []hv.Region {
	r := []hv.Region{{Base: 0, Size: low, Kind: hv.RAM}}
	if high > 0 {
		r = append(r, hv.Region{Base: boot.HighBase, Size: high, Kind: hv.RAM})
	}
	return r
}

// reserved are the ranges that the guest's memory map must not call usable.
func reserved() []boot.Range {
	return []boot.Range{{Base: tableBase, Size: tableSize}, {Base: ecamBase, Size: ecamSize}}
}
