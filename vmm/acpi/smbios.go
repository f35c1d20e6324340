// SPDX-License-Identifier: BSD-2-Clause

package acpi

import (
	"encoding/binary"
	"fmt"
)

// SMBIOS is what the guest is told of the machine as a product. cloud-init looks
// here: a serial number that begins with "ds=nocloud" names its data source.
type SMBIOS struct {
	// UUID identifies the machine, in the order in which it is printed.
	UUID [16]byte
	// Strings of printable ASCII, at most 255 bytes. Empty: Manufacturer is
	// "skep", Product "skep virtual machine", the others are not given.
	Manufacturer, Product, Version, Serial, SKU, Family string
	// Sockets, Cores (of a socket) and Threads (of a core); at most MaxCPUs in
	// all. 0 means 1.
	Sockets, Cores, Threads int
	// LowMem and HighMem are the bytes of memory from address 0 and from 4 GiB;
	// multiples of 1 MiB.
	LowMem, HighMem uint64
}

// maxMemory is what fits into the 31 bits of megabytes of a type 17 structure.
const maxMemory = 1 << 50

func (c *SMBIOS) check() error {
	for _, s := range []struct{ name, v string }{{"Manufacturer", c.Manufacturer}, {"Product", c.Product},
		{"Version", c.Version}, {"Serial", c.Serial}, {"SKU", c.SKU}, {"Family", c.Family}} {
		if len(s.v) > 255 {
			return fmt.Errorf("%w: %s of %d bytes: at most 255", ErrConfig, s.name, len(s.v))
		}
		for _, b := range []byte(s.v) {
			if b < ' ' || b > '~' {
				return fmt.Errorf("%w: %s %q: want printable ASCII", ErrConfig, s.name, s.v)
			}
		}
	}
	for _, n := range []int{c.Sockets, c.Cores, c.Threads} {
		if n < 1 || n > MaxCPUs {
			return fmt.Errorf("%w: %d sockets of %d cores of %d threads: want 1..%d in all", ErrConfig, c.Sockets, c.Cores, c.Threads, MaxCPUs)
		}
	}
	if c.Sockets*c.Cores*c.Threads > MaxCPUs {
		return fmt.Errorf("%w: %d sockets of %d cores of %d threads: want 1..%d in all", ErrConfig, c.Sockets, c.Cores, c.Threads, MaxCPUs)
	}
	if c.LowMem == 0 || c.LowMem > 1<<32 || c.HighMem > maxMemory || c.LowMem%(1<<20) != 0 || c.HighMem%(1<<20) != 0 {
		return fmt.Errorf("%w: %#x bytes of low and %#x of high memory: want multiples of 1 MiB", ErrConfig, c.LowMem, c.HighMem)
	}
	return nil
}

// dmi collects structures (section 6.1).
type dmi struct {
	b       []byte
	count   int
	longest int
}

// add appends a structure: its formatted area behind the header, in which the
// numbers of strings are already set, and its strings.
func (d *dmi) add(kind byte, handle uint16, body []byte, strings ...string) {
	start := len(d.b)
	d.b = append(d.b, kind, byte(4+len(body)))
	d.b = binary.LittleEndian.AppendUint16(d.b, handle)
	d.b = append(d.b, body...)
	for _, s := range strings {
		d.b = append(append(d.b, s...), 0)
	}
	if len(strings) == 0 {
		d.b = append(d.b, 0)
	}
	d.b = append(d.b, 0)
	d.count++
	d.longest = max(d.longest, len(d.b)-start)
}

// numbers keeps the strings that are not empty and gives each its number.
type numbers struct{ s []string }

func (n *numbers) add(s string) byte {
	if s == "" {
		return 0
	}
	n.s = append(n.s, s)
	return byte(len(n.s))
}

// BuildSMBIOS makes the SMBIOS tables, with an entry point of 3.0 and one of
// 2.8 for guests that know no other, at SMBIOSBase. Errors wrap ErrConfig.
func BuildSMBIOS(c SMBIOS) (*Tables, error) {
	for _, p := range []*int{&c.Sockets, &c.Cores, &c.Threads} {
		if *p == 0 {
			*p = 1
		}
	}
	if c.Manufacturer == "" {
		c.Manufacturer = "skep"
	}
	if c.Product == "" {
		c.Product = "skep virtual machine"
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("build SMBIOS tables: %w", err)
	}
	d := &dmi{}
	c.structures(d)

	l := &layout{base: SMBIOSBase}
	at3 := l.reserve(24, 16)
	at2 := l.reserve(31, 16)
	table := l.put(d.b, 16)
	if end := SMBIOSBase + len(l.b); end > DefaultBase {
		return nil, fmt.Errorf("build SMBIOS tables: %w: they end at %#x, beyond %#x", ErrConfig, end, DefaultBase)
	}
	le := binary.LittleEndian
	e3 := append([]byte("_SM3_\x00"), 24, 3, 4, 0, 1, 0)
	e3 = le.AppendUint32(e3, uint32(len(d.b)))
	e3 = le.AppendUint64(e3, table)
	e3[5] = checksum(e3)
	l.fill(at3, e3)

	inner := le.AppendUint16([]byte("_DMI_\x00"), uint16(len(d.b)))
	inner = le.AppendUint32(inner, uint32(table))
	inner = append(le.AppendUint16(inner, uint16(d.count)), 0x28)
	inner[5] = checksum(inner)
	e2 := le.AppendUint16(append([]byte("_SM_\x00"), 31, 2, 8), uint16(d.longest))
	e2 = append(append(e2, 0, 0, 0, 0, 0, 0), inner...)
	e2[4] = checksum(e2)
	l.fill(at2, e2)
	return &Tables{Addr: SMBIOSBase, Blob: l.b, RSDP: at3}, nil
}

// structures emits those that a conforming machine must have (section 6.2).
func (c *SMBIOS) structures(d *dmi) {
	le := binary.LittleEndian
	cat16 := func(b []byte, v ...uint16) []byte {
		for _, x := range v {
			b = le.AppendUint16(b, x)
		}
		return b
	}
	const unknown = 2

	// 0: firmware. Its last characteristics bytes say ACPI, and virtual machine.
	d.add(0, 0x000, []byte{1, 2, 0, 0xf0, 3, 0, 1 << 3, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x18, 1, 0, 0xff, 0xff, 0, 0},
		"skep", "1.0", "01/01/2025")

	// 1: system. The first three fields of the UUID are little-endian.
	var n numbers
	u := c.UUID
	body := []byte{n.add(c.Manufacturer), n.add(c.Product), n.add(c.Version), n.add(c.Serial),
		u[3], u[2], u[1], u[0], u[5], u[4], u[7], u[6], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15],
		6, n.add(c.SKU), n.add(c.Family)}
	d.add(1, 0x100, body, n.s...)

	// 3: chassis.
	n = numbers{}
	body = []byte{n.add(c.Manufacturer), 1, 0, n.add(c.Serial), 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	d.add(3, 0x300, body, n.s...)

	// 4: processors, one a socket.
	for i := range c.Sockets {
		threads := c.Cores * c.Threads
		body = []byte{1, 3, unknown, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80}
		body = cat16(body, 0, 0, 0)
		body = append(body, 0x41, unknown)
		body = cat16(body, 0xffff, 0xffff, 0xffff)
		body = append(body, 0, 0, 0, byte(c.Cores), byte(c.Cores), byte(threads))
		body = cat16(body, 1<<2, unknown, uint16(c.Cores), uint16(c.Cores), uint16(threads))
		d.add(4, 0x400+uint16(i), body, fmt.Sprintf("CPU %d", i), c.Manufacturer)
	}

	// 16, 17, 19: memory.
	total := c.LowMem + c.HighMem
	body = le.AppendUint32([]byte{1, 3, 3}, 0x80000000)
	body = cat16(body, 0xfffe, 1)
	d.add(16, 0x1000, le.AppendUint64(body, total))
	body = cat16(nil, 0x1000, 0xfffe, 64, 64)
	if mib := total >> 20; mib < 0x7fff {
		body = cat16(body, uint16(mib))
	} else {
		body = cat16(body, 0x7fff)
	}
	body = append(body, 9, 0, 1, 0, 7)
	body = cat16(body, 1<<1, 0)
	body = append(body, 2, 0, 0, 0, 0)
	body = le.AppendUint32(body, uint32(total>>20))
	body = cat16(body, 0, 0, 0, 0)
	d.add(17, 0x1100, body, "DIMM 0", c.Manufacturer)
	mapped := func(handle uint16, base, size uint64) {
		b := cat16(nil, 0xffff, 0xffff, 0xffff, 0xffff, 0x1000) // the extended addresses count
		b = append(b, 1)
		d.add(19, handle, le.AppendUint64(le.AppendUint64(b, base), base+size-1))
	}
	mapped(0x1300, 0, c.LowMem)
	if c.HighMem > 0 {
		mapped(0x1301, 1<<32, c.HighMem)
	}

	// 32: boot status, 127: the end.
	d.add(32, 0x2000, make([]byte, 7))
	d.add(127, 0x7f00, nil)
}
