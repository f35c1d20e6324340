// SPDX-License-Identifier: BSD-2-Clause

package acpi

import (
	"errors"
	"fmt"
)

// ErrConfig is wrapped by every refusal of a configuration.
var ErrConfig = errors.New("bad firmware table configuration")

// Where tables are put when a configuration does not say: as in bhyve's map.
const (
	DefaultBase = 0xf2400 // ACPI, up to Limit
	SMBIOSBase  = 0xf1000 // SMBIOS, up to DefaultBase
	Limit       = 0x100000
)

// MaxCPUs is the largest number of processors that the tables describe.
const MaxCPUs = 16

// Window is a range of addresses that PCI's host bridge passes on. Size 0 means
// there is none.
type Window struct{ Base, Size uint64 }

// Config is the hardware that the tables tell of. The zero value of a field
// means that there is no such thing, but where a default is named.
type Config struct {
	// CPUs is the number of processors, 1..MaxCPUs; APIC ids are 0..CPUs-1.
	CPUs int
	// Base is the guest-physical address of the tables, a multiple of 64 in
	// [0xe0000, Limit) where guests look for the RSDP. 0 means DefaultBase.
	Base uint64

	// The windows of the PCI host bridge, and its configuration space.
	IO, Mem32, Mem64 Window
	ECAM             uint64 // guest-physical base, 1 MiB aligned
	Buses            int    // 1..256; 0 means 1

	// GSI returns the I/O APIC line of interrupt pin 1..4 (INTA is 1) of a slot,
	// 16..23; nil leaves the routing out.
	GSI func(slot, pin int) int
	// ISA returns the same for a guest that uses the 8259s: a line of 3..15.
	// nil: such a guest has no pin interrupts.
	ISA func(slot, pin int) int

	// Keyboard: there is an i8042. VGA: there is a display.
	Keyboard, VGA bool
	// COM1 and COM2 are 16550s at 0x3f8 and 0x2f8, lines 4 and 3. The console is
	// on COM1.
	COM1, COM2 bool

	// HPET is the low half of the timer's capability register, as a backend
	// reports it; it stands at 0xfed00000.
	HPET uint32
}

func (c *Config) check() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, a...))
	}
	if c.CPUs < 1 || c.CPUs > MaxCPUs {
		return bad("%d CPUs: want 1..%d", c.CPUs, MaxCPUs)
	}
	if c.Base%64 != 0 || c.Base < 0xe0000 || c.Base >= Limit {
		return bad("Base %#x: want a multiple of 64 in [0xe0000, %#x)", c.Base, Limit)
	}
	inside := func(name string, w Window, lo, hi uint64) error {
		if w.Size != 0 && (w.Base < lo || w.Base > hi || w.Size > hi-w.Base) {
			return bad("%s %#x+%#x: want a range in [%#x, %#x)", name, w.Base, w.Size, lo, hi)
		}
		return nil
	}
	if err := errors.Join(inside("IO", c.IO, 0xd00, 0x10000), inside("Mem32", c.Mem32, 1<<20, 1<<32),
		inside("Mem64", c.Mem64, 1<<32, 1<<52)); err != nil {
		return err
	}
	if c.Buses < 1 || c.Buses > 256 {
		return bad("%d buses: want 1..256", c.Buses)
	}
	if size := uint64(c.Buses) << 20; c.ECAM != 0 && (c.ECAM%(1<<20) != 0 || c.ECAM < 1<<20 || c.ECAM > 1<<32-size) {
		return bad("ECAM %#x of %d buses: want a multiple of 1 MiB that fits below 4 GiB", c.ECAM, c.Buses)
	}
	for slot := range slots {
		for pin := 1; pin <= 4; pin++ {
			if c.GSI != nil {
				if n := c.GSI(slot, pin); n < 16 || n > 23 {
					return bad("GSI of slot %d pin %d is %d: want 16..23", slot, pin, n)
				}
			}
			if c.ISA != nil {
				if n := c.ISA(slot, pin); n < 3 || n > 15 {
					return bad("ISA interrupt of slot %d pin %d is %d: want 3..15", slot, pin, n)
				}
			}
		}
	}
	return nil
}
