// SPDX-License-Identifier: BSD-2-Clause

package pci

import "fmt"

// Window is a range of addresses that the host bridge forwards.
type Window struct{ Base, Size uint64 }

func (w Window) holds(base, size uint64) bool {
	return size <= w.Size && base >= w.Base && base-w.Base <= w.Size-size
}

// Layout says where PCI lies in the machine's address spaces. ACPI describes
// the same to the guest.
type Layout struct {
	ECAM  uint64 // guest-physical base of the configuration window, 1 MiB a bus
	Buses int    // buses that ECAM covers, 1..256; only bus 0 has devices
	Mem32 Window // memory BARs below 4 GiB
	Mem64 Window // 64-bit memory BARs; Size 0 means none
	IO    Window // port BARs
}

// DefaultLayout is bhyve's map: memory BARs from 3 GiB, ECAM at 3.5 GiB, port
// BARs from 0x2000. A machine adds a 64-bit window above its memory if a device
// needs one.
func DefaultLayout() Layout {
	return Layout{
		ECAM: 0xe000_0000, Buses: 256,
		Mem32: Window{0xc000_0000, 0x2000_0000},
		IO:    Window{0x2000, 0xe000},
	}
}

// Slots and functions of a bus.
const (
	Slots     = 32
	Functions = 8
	// LPCSlot is where the ISA bridge sits, as in bhyve.
	LPCSlot = 31
)

// GSI returns the I/O APIC line (16..23) that an interrupt pin of a slot is wired
// to, as in bhyve; INTA is pin 1, INTD 4. The lines are level-triggered and active low. The ACPI _PRT is made of
// it.
func GSI(slot int, pin int) int { return 16 + (4+slot+pin)%8 }

func (l Layout) check() error {
	if l.Buses < 1 || l.Buses > 256 || l.ECAM%(1<<20) != 0 {
		return fmt.Errorf("pci layout: ECAM at %#x for %d buses", l.ECAM, l.Buses)
	}
	if l.Mem32.Base+l.Mem32.Size > 1<<32 || l.IO.Base+l.IO.Size > 1<<16 || l.Mem64.Base+l.Mem64.Size < l.Mem64.Base {
		return fmt.Errorf("pci layout: window too large: mem32 %#x, mem64 %#x, io %#x", l.Mem32, l.Mem64, l.IO)
	}
	return nil
}
