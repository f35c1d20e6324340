// SPDX-License-Identifier: BSD-2-Clause

package acpi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// structure is one that a reader found.
type structure struct {
	kind    byte
	body    []byte // with the header
	strings []string
}

func (s structure) str(off int) string {
	if n := int(s.body[off]); n > 0 {
		return s.strings[n-1]
	}
	return ""
}

// readSMBIOS reads the tables as Linux' dmi_scan does, and by both entry points.
func readSMBIOS(t *testing.T, m *Tables) []structure {
	t.Helper()
	le := binary.LittleEndian
	r := reader{t, m}
	e3 := r.at(m.RSDP, 24)
	if !bytes.HasPrefix(e3, []byte("_SM3_")) || sum(e3) != 0 || m.RSDP%16 != 0 {
		t.Fatalf("entry point % x", e3)
	}
	e2 := r.at(m.RSDP+32, 31)
	if !bytes.HasPrefix(e2, []byte("_SM_")) || sum(e2) != 0 || string(e2[16:21]) != "_DMI_" || sum(e2[16:]) != 0 {
		t.Fatalf("old entry point % x", e2)
	}
	addr, size := le.Uint64(e3[16:]), le.Uint32(e3[12:])
	if uint64(le.Uint32(e2[24:])) != addr || uint32(le.Uint16(e2[22:])) != size {
		t.Errorf("the entry points differ: % x, % x", e3, e2)
	}
	b := r.at(addr, size)
	var all []structure
	longest := 0
	for len(b) > 0 {
		s := structure{kind: b[0], body: b[:b[1]]}
		i := int(b[1])
		for b[i] != 0 {
			n := bytes.IndexByte(b[i:], 0)
			s.strings = append(s.strings, string(b[i:i+n]))
			i += n + 1
		}
		if i++; len(s.strings) == 0 {
			i++
		}
		longest = max(longest, i)
		all = append(all, s)
		b = b[i:]
	}
	if int(le.Uint16(e2[28:])) != len(all) || int(le.Uint16(e2[8:])) != longest {
		t.Errorf("%d structures, longest %d; the old entry point says %d, %d", len(all), longest, le.Uint16(e2[28:]), le.Uint16(e2[8:]))
	}
	return all
}

func TestSMBIOS(t *testing.T) {
	uuid := [16]byte{0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 8}
	m, err := BuildSMBIOS(SMBIOS{UUID: uuid, Serial: "ds=nocloud;i=vm1", Sockets: 2, Cores: 4, Threads: 2,
		LowMem: 3 << 30, HighMem: 61 << 30})
	if err != nil {
		t.Fatal(err)
	}
	if m.Addr != SMBIOSBase || m.Addr+uint64(len(m.Blob)) > DefaultBase {
		t.Errorf("at %#x+%#x", m.Addr, len(m.Blob))
	}
	all := readSMBIOS(t, m)
	sizes := map[byte]int{0: 26, 1: 27, 3: 22, 4: 48, 16: 23, 17: 40, 19: 31, 32: 11, 127: 4}
	var kinds []byte
	for _, s := range all {
		kinds = append(kinds, s.kind)
		if len(s.body) != sizes[s.kind] {
			t.Errorf("type %d has %d bytes, wanted %d", s.kind, len(s.body), sizes[s.kind])
		}
	}
	if want := []byte{0, 1, 3, 4, 4, 16, 17, 19, 19, 32, 127}; !bytes.Equal(kinds, want) {
		t.Fatalf("types %v, wanted %v", kinds, want)
	}
	sys := all[1]
	if sys.str(4) != "skep" || sys.str(5) != "skep virtual machine" || sys.str(7) != "ds=nocloud;i=vm1" || sys.str(6) != "" {
		t.Errorf("system %q", sys.strings)
	}
	if want := []byte{0x78, 0x56, 0x34, 0x12, 0xbc, 0x9a, 0xf0, 0xde, 1, 2, 3, 4, 5, 6, 7, 8}; !bytes.Equal(sys.body[8:24], want) {
		t.Errorf("UUID % x", sys.body[8:24])
	}
	if cpu := all[3].body; cpu[0x23] != 4 || cpu[0x25] != 8 {
		t.Errorf("%d cores, %d threads", cpu[0x23], cpu[0x25])
	}
	le := binary.LittleEndian
	if mem := all[6].body; le.Uint16(mem[0x0c:]) != 0x7fff || le.Uint32(mem[0x1c:]) != 64<<10 {
		t.Errorf("memory % x", mem)
	}
	if hi := all[8].body; le.Uint64(hi[15:]) != 4<<30 || le.Uint64(hi[23:]) != 65<<30-1 {
		t.Errorf("high memory % x", hi)
	}
}

func TestSMBIOSRefused(t *testing.T) {
	for name, c := range map[string]SMBIOS{
		"no memory":   {},
		"odd memory":  {LowMem: 1<<20 + 1},
		"much memory": {LowMem: 1 << 20, HighMem: 1 << 51},
		"low memory":  {LowMem: 5 << 30},
		"NUL":         {LowMem: 1 << 20, Serial: "a\x00b"},
		"newline":     {LowMem: 1 << 20, Product: "a\nb"},
		"not ASCII":   {LowMem: 1 << 20, Family: "ü"},
		"long":        {LowMem: 1 << 20, SKU: strings.Repeat("x", 256)},
		"17 CPUs":     {LowMem: 1 << 20, Sockets: 17},
		"32 CPUs":     {LowMem: 1 << 20, Sockets: 4, Cores: 4, Threads: 2},
		"negative":    {LowMem: 1 << 20, Cores: -1},
		"overflow":    {LowMem: 1 << 20, Sockets: 1 << 32, Cores: 1 << 32},
	} {
		if m, err := BuildSMBIOS(c); !errors.Is(err, ErrConfig) || m != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := strings.Repeat("x", 255)
	if _, err := BuildSMBIOS(SMBIOS{LowMem: 1 << 20, Manufacturer: long, Product: long, Version: long, Serial: long,
		SKU: long, Family: long, Sockets: MaxCPUs}); !errors.Is(err, ErrConfig) {
		t.Errorf("the longest strings of the most processors must not fit, nor overwrite: %v", err)
	}
}
