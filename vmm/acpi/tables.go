// SPDX-License-Identifier: BSD-2-Clause

package acpi

import (
	"encoding/binary"
	"fmt"

	"github.com/skepvm/skep/vmm/guestmem"
)

// The fixed hardware, as package chipset has it (chipset.PortPM1Event and so
// on; a test holds them equal).
const (
	sciIRQ       = 9
	portSMI      = 0xb2
	portPM1Event = 0x400
	portPM1Cntl  = 0x404
	portPMTimer  = 0x408
	portGPE0     = 0x40c
	smiEnable    = 0xa0
	smiDisable   = 0xa1
	sleepS5      = 5
	portReset    = 0xcf9
	resetValue   = 6
	rtcCentury   = 0x32

	lapicBase  = 0xfee00000
	ioapicBase = 0xfec00000
	hpetBase   = 0xfed00000
)

// Tables are bytes and where they belong.
type Tables struct {
	Addr uint64 // guest-physical
	Blob []byte
	// RSDP is the guest-physical address of the root pointer: ACPI's, or
	// SMBIOS's entry point.
	RSDP uint64
}

// Load copies the tables into guest memory.
func (t *Tables) Load(mem *guestmem.Memory) error {
	if err := mem.WriteAt(t.Blob, t.Addr); err != nil {
		return fmt.Errorf("load firmware tables: %w", err)
	}
	return nil
}

// Build makes the ACPI tables. Errors wrap ErrConfig.
func Build(c Config) (*Tables, error) {
	if c.Base == 0 {
		c.Base = DefaultBase
	}
	if c.Buses == 0 {
		c.Buses = 1
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("build ACPI tables: %w", err)
	}
	code, err := c.dsdt()
	if err != nil {
		return nil, fmt.Errorf("build ACPI tables: %w", err)
	}
	// The root comes first, then what it points to; addresses are known as soon
	// as the sizes are.
	l := &layout{base: c.Base}
	roots := []func() []byte{}
	count := 2 // FADT, MADT
	for _, have := range []bool{c.ECAM != 0, c.HPET != 0, c.COM1} {
		if have {
			count++
		}
	}
	rsdpAt := l.reserve(36, 16)
	rsdtAt := l.reserve(36+4*count, 16)
	xsdtAt := l.reserve(36+8*count, 16)
	facsAt := l.put(facs(), 64)
	dsdtAt := l.put(table("DSDT", 2, code), 16)
	roots = append(roots, func() []byte { return c.fadt(facsAt, dsdtAt) }, c.madt)
	if c.ECAM != 0 {
		roots = append(roots, c.mcfg)
	}
	if c.HPET != 0 {
		roots = append(roots, c.hpet)
	}
	if c.COM1 {
		roots = append(roots, c.spcr)
	}
	var rsdt, xsdt []byte
	for _, r := range roots {
		at := l.put(r(), 16)
		rsdt = binary.LittleEndian.AppendUint32(rsdt, uint32(at))
		xsdt = binary.LittleEndian.AppendUint64(xsdt, at)
	}
	l.fill(rsdtAt, table("RSDT", 1, rsdt))
	l.fill(xsdtAt, table("XSDT", 1, xsdt))
	l.fill(rsdpAt, rsdp(rsdtAt, xsdtAt))
	if end := c.Base + uint64(len(l.b)); end > Limit {
		return nil, fmt.Errorf("build ACPI tables: %w: they end at %#x, beyond %#x", ErrConfig, end, Limit)
	}
	return &Tables{Addr: c.Base, Blob: l.b, RSDP: rsdpAt}, nil
}

// layout is memory being filled from base on.
type layout struct {
	base uint64
	b    []byte
}

func (l *layout) reserve(size, align int) uint64 {
	for len(l.b)%align != 0 { // base has every alignment that is asked for
		l.b = append(l.b, 0)
	}
	at := l.base + uint64(len(l.b))
	l.b = append(l.b, make([]byte, size)...)
	return at
}

func (l *layout) put(b []byte, align int) uint64 {
	at := l.reserve(len(b), align)
	l.fill(at, b)
	return at
}

func (l *layout) fill(at uint64, b []byte) { copy(l.b[at-l.base:], b) }

// checksum is what makes the sum of b, with it, zero.
func checksum(b []byte) byte {
	var s byte
	for _, x := range b {
		s += x
	}
	return -s
}

// table puts the header of section 5.2.6 before body.
func table(sig string, rev byte, body []byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32([]byte(sig), uint32(36+len(body)))
	b = append(b, rev, 0)
	b = append(b, "SKEP  "...)
	b = append(b, "SKEP"+sig...)
	b = le.AppendUint32(b, 1)
	b = append(b, "SKEP"...)
	b = le.AppendUint32(b, 1)
	b = append(b, body...)
	b[9] = checksum(b)
	return b
}

// rsdp is section 5.2.5.3.
func rsdp(rsdt, xsdt uint64) []byte {
	b := append([]byte("RSD PTR \x00SKEP  "), 2)
	b = binary.LittleEndian.AppendUint32(b, uint32(rsdt))
	b[8] = checksum(b)
	b = binary.LittleEndian.AppendUint32(b, 36)
	b = binary.LittleEndian.AppendUint64(b, xsdt)
	b = append(b, 0, 0, 0, 0)
	b[32] = checksum(b)
	return b
}

// facs is section 5.2.10.
func facs() []byte {
	b := make([]byte, 64)
	copy(b, "FACS")
	b[4], b[32] = 64, 2
	return b
}

// gasPort is a generic address of a register in port space (section 5.2.3.2).
func gasPort(port uint64, bits, access byte) []byte {
	return binary.LittleEndian.AppendUint64([]byte{1, bits, 0, access}, port)
}

// fadt is section 5.2.9.
func (c *Config) fadt(facs, dsdt uint64) []byte {
	b := make([]byte, 276-36)
	le := binary.LittleEndian
	put8 := func(off int, v byte) { b[off-36] = v }
	put16 := func(off int, v uint16) { le.PutUint16(b[off-36:], v) }
	put32 := func(off int, v uint64) { le.PutUint32(b[off-36:], uint32(v)) }
	gas := func(off int, g []byte) { copy(b[off-36:], g) }

	put32(36, facs)
	put32(40, dsdt)
	put16(46, sciIRQ)
	put32(48, portSMI)
	put8(52, smiEnable)
	put8(53, smiDisable)
	put32(56, portPM1Event)
	put32(64, portPM1Cntl)
	put32(76, portPMTimer)
	put32(80, portGPE0)
	put8(88, 4)
	put8(89, 2)
	put8(91, 4)
	put8(92, 4)
	put16(96, 101)  // no C2
	put16(98, 1001) // no C3
	put8(108, rtcCentury)
	arch := uint16(0)
	if c.COM1 || c.COM2 {
		arch |= 1 << 0 // devices behind LPC
	}
	if c.Keyboard {
		arch |= 1 << 1
	}
	if !c.VGA {
		arch |= 1 << 2
	}
	put16(109, arch)
	// WBINVD works, C1 on all processors, sleep button is no fixed one, the RTC
	// wakes nobody, the timer has 32 bits, there is a reset register.
	put32(112, 1<<0|1<<2|1<<5|1<<6|1<<8|1<<10)
	gas(116, gasPort(portReset, 8, 1))
	put8(128, resetValue)
	put8(131, 3) // minor version: 6.3
	le.PutUint64(b[140-36:], dsdt)
	gas(148, gasPort(portPM1Event, 32, 2))
	gas(172, gasPort(portPM1Cntl, 16, 2))
	gas(208, gasPort(portPMTimer, 32, 3))
	gas(220, gasPort(portGPE0, 32, 1))
	copy(b[268-36:], "skep")
	return table("FACP", 6, b)
}

// madt is section 5.2.12.
func (c *Config) madt() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, lapicBase)
	b = le.AppendUint32(b, 1) // there are 8259s
	for i := range c.CPUs {
		b = append(b, 0, 8, byte(i), byte(i), 1, 0, 0, 0)
	}
	b = append(b, 1, 12, 0, 0)
	b = le.AppendUint32(b, ioapicBase)
	b = le.AppendUint32(b, 0)
	override := func(irq byte, gsi uint32, flags uint16) {
		b = append(b, 2, 10, 0, irq)
		b = le.AppendUint32(b, gsi)
		b = le.AppendUint16(b, flags)
	}
	override(0, 2, 0)              // conforms: edge, high
	override(sciIRQ, sciIRQ, 0x0d) // level, high
	// All processors have NMI at LINT1.
	return table("APIC", 5, append(b, 4, 6, 0xff, 0, 0, 1))
}

// mcfg is PCI Firmware Specification 3.2, section 4.1.2.
func (c *Config) mcfg() []byte {
	b := make([]byte, 8)
	b = binary.LittleEndian.AppendUint64(b, c.ECAM)
	return table("MCFG", 1, append(b, 0, 0, 0, byte(c.Buses-1), 0, 0, 0, 0))
}

// hpet is IA-PC HPET Specification 1.0a, section 3.2.4.
func (c *Config) hpet() []byte {
	b := binary.LittleEndian.AppendUint32(nil, c.HPET)
	b = append(b, 0, 0, 0, 0) // in memory
	b = binary.LittleEndian.AppendUint64(b, hpetBase)
	return table("HPET", 1, append(b, 0, 0, 0, 0))
}

// spcr is Microsoft's Serial Port Console Redirection Table, revision 2.
func (c *Config) spcr() []byte {
	b := append([]byte{0, 0, 0, 0}, gasPort(0x3f8, 8, 1)...)
	b = append(b, 3, 4)                            // 8259 line 4, and I/O APIC
	b = binary.LittleEndian.AppendUint32(b, 4)     // line 4
	b = append(b, 7, 0, 1, 0, 3, 0)                // 115200 baud, no parity, 1 stop bit, no flow control, ANSI
	b = append(b, 0xff, 0xff, 0xff, 0xff, 0, 0, 0) // no PCI device
	b = append(b, 0, 0, 0, 0, 0)                   // PCI flags, segment
	return table("SPCR", 2, append(b, 0, 0, 0, 0))
}
