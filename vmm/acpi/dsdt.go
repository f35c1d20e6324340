// SPDX-License-Identifier: BSD-2-Clause

package acpi

const (
	slots   = 32
	lpcSlot = 31
)

// dsdt emits the definition block: what tables cannot say and a bus cannot tell.
func (c *Config) dsdt() ([]byte, error) {
	a := &aml{}
	body := cat(
		// The guest says with _PIC(1) that it uses the I/O APIC.
		a.def("PICM", a.integer(0)),
		a.method("_PIC", 1, a.store(a.arg(0), a.name("PICM"))),
		a.def("_S5", a.list(a.integer(sleepS5), a.integer(0), a.integer(0), a.integer(0))),
		a.scope("_SB", c.hostBridge(a), c.motherboard(a)),
	)
	return body, a.err
}

// hostBridge emits the PCI root with the ISA devices behind its bridge.
func (c *Config) hostBridge(a *aml) []byte {
	crs := [][]byte{
		a.space(2, spaceBus, 0, 0, uint64(c.Buses)),
		a.io(0xcf8, 8),
		a.space(2, spaceIO, ioEntireRange, 0, 0xcf8), // the ISA devices' ports
	}
	if c.IO.Size != 0 {
		crs = append(crs, a.space(2, spaceIO, ioEntireRange, c.IO.Base, c.IO.Size))
	}
	if c.Mem32.Size != 0 {
		crs = append(crs, a.space(4, spaceMemory, memReadWrite, c.Mem32.Base, c.Mem32.Size))
	}
	if c.Mem64.Size != 0 {
		crs = append(crs, a.space(8, spaceMemory, memReadWrite, c.Mem64.Base, c.Mem64.Size))
	}
	body := [][]byte{
		a.def("_HID", a.eisaID("PNP0A08")),
		a.def("_CID", a.eisaID("PNP0A03")),
		a.def("_UID", a.integer(0)),
		a.def("_SEG", a.integer(0)),
		a.def("_BBN", a.integer(0)),
		a.def("_CRS", a.resources(crs...)),
	}
	if c.GSI != nil {
		body = append(body, a.def("APRT", routes(a, c.GSI)))
		pic := a.list()
		if c.ISA != nil {
			pic = routes(a, c.ISA)
		}
		body = append(body, a.def("PPRT", pic),
			a.method("_PRT", 0,
				a.ifThen(a.name("PICM"), a.ret(a.name("APRT"))),
				a.ret(a.name("PPRT"))))
	}
	body = append(body, c.isa(a))
	return a.device("PCI0", body...)
}

// routes emits a _PRT package (section 6.2.13): for every pin of every slot the
// line it is hard-wired to.
func routes(a *aml, line func(slot, pin int) int) []byte {
	var e [][]byte
	for slot := range slots {
		for pin := range 4 {
			e = append(e, a.list(a.integer(uint64(slot)<<16|0xffff), a.integer(uint64(pin)), a.integer(0),
				a.integer(uint64(line(slot, pin+1)))))
		}
	}
	return a.list(e...)
}

// isa emits the bridge and the devices that no bus announces.
func (c *Config) isa(a *aml) []byte {
	body := [][]byte{a.def("_ADR", a.integer(lpcSlot<<16))}
	add := func(name, id string, extra []byte, crs ...[]byte) {
		body = append(body, a.device(name, a.def("_HID", a.eisaID(id)), extra, a.def("_CRS", a.resources(crs...))))
	}
	uid := func(n uint64) []byte { return a.def("_UID", a.integer(n)) }
	add("PIC", "PNP0000", nil, a.io(0x20, 2), a.io(0xa0, 2), a.irq(2))
	add("TIMR", "PNP0100", nil, a.io(0x40, 4), a.irq(0))
	add("RTC", "PNP0B00", nil, a.io(0x70, 2), a.irq(8))
	if c.Keyboard {
		add("KBD", "PNP0303", nil, a.io(0x60, 1), a.io(0x64, 1), a.irq(1))
	}
	if c.COM1 {
		add("COM1", "PNP0501", uid(1), a.io(0x3f8, 8), a.irq(4))
	}
	if c.COM2 {
		add("COM2", "PNP0501", uid(2), a.io(0x2f8, 8), a.irq(3))
	}
	return a.device("ISA", body...)
}

// motherboard emits the ranges that belong to nobody else, so that no guest
// puts a device there, and the timer outside of any bus.
func (c *Config) motherboard(a *aml) []byte {
	crs := [][]byte{
		a.io(0x61, 1), a.io(0x80, 1), a.io(0x92, 1), a.io(portSMI, 1), a.io(0x4d0, 2),
		a.io(portPM1Event, 0x10),
	}
	if c.ECAM != 0 {
		crs = append(crs, a.memory32(c.ECAM, uint64(c.Buses)<<20))
	}
	b := a.device("MBRD", a.def("_HID", a.eisaID("PNP0C02")), a.def("_UID", a.integer(0)),
		a.def("_CRS", a.resources(crs...)))
	if c.HPET != 0 {
		b = append(b, a.device("HPET", a.def("_HID", a.eisaID("PNP0103")), a.def("_UID", a.integer(0)),
			a.def("_CRS", a.resources(a.memory32(hpetBase, 0x400))))...)
	}
	return b
}
