// SPDX-License-Identifier: BSD-2-Clause

package acpi

import "encoding/binary"

// Resource descriptors (section 6.4).

// resources wraps descriptors as the buffer that _CRS returns.
func (a *aml) resources(r ...[]byte) []byte {
	return a.buffer(append(cat(r...), 0x79, 0)) // the end tag; 0: no checksum
}

// io is a fixed range of ports.
func (a *aml) io(port, size uint64) []byte {
	if size < 1 || size > 255 || port > 0xffff || port+size > 0x10000 {
		return a.fail("ports %#x+%#x", port, size)
	}
	b := []byte{0x47, 1} // decodes 16 bits
	b = binary.LittleEndian.AppendUint16(b, uint16(port))
	b = binary.LittleEndian.AppendUint16(b, uint16(port))
	return append(b, 1, byte(size))
}

// irq is an ISA interrupt, edge-triggered and active high.
func (a *aml) irq(n int) []byte {
	if n < 0 || n > 15 {
		return a.fail("ISA interrupt %d", n)
	}
	return binary.LittleEndian.AppendUint16([]byte{0x22}, 1<<n)
}

// memory32 is a fixed range of memory below 4 GiB.
func (a *aml) memory32(base, size uint64) []byte {
	if size == 0 || base > 0xffffffff || size > 1<<32-base || size > 0xffffffff {
		return a.fail("memory %#x+%#x below 4 GiB", base, size)
	}
	b := []byte{0x86, 9, 0, 1} // read-write
	b = binary.LittleEndian.AppendUint32(b, uint32(base))
	return binary.LittleEndian.AppendUint32(b, uint32(size))
}

// Kinds of an address space descriptor and their type-specific flags.
const (
	spaceMemory, spaceIO, spaceBus = 0, 1, 2
	memReadWrite, ioEntireRange    = 1, 3
)

// space is what a bridge passes on: an address space descriptor of 2, 4 or 8
// byte fields, fixed at both ends.
func (a *aml) space(width int, kind, flags byte, base, size uint64) []byte {
	last := base + size - 1
	if size == 0 || last < base || width < 8 && last>>(8*width) != 0 {
		return a.fail("address space %#x+%#x of %d-byte fields", base, size, width)
	}
	tag := map[int]byte{2: 0x88, 4: 0x87, 8: 0x8a}[width]
	if tag == 0 {
		return a.fail("address space of %d-byte fields", width)
	}
	b := []byte{tag, byte(3 + 5*width), 0, kind, 0x0c, flags}
	for _, v := range []uint64{0, base, last, 0, size} { // granularity, minimum, maximum, translation, length
		var f [8]byte
		binary.LittleEndian.PutUint64(f[:], v)
		b = append(b, f[:width]...)
	}
	return b
}
