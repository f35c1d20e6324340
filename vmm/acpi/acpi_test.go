// SPDX-License-Identifier: BSD-2-Clause

package acpi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/skepvm/skep/vmm/chipset"
	"github.com/skepvm/skep/vmm/guestmem"
	"github.com/skepvm/skep/vmm/hv"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func gsi(slot, pin int) int { return 16 + (4+slot+pin)%8 }
func isa(slot, pin int) int { return []int{5, 10, 11, 12}[(slot+pin)%4] }

var configs = map[string]Config{
	"small": {CPUs: 1, Buses: 1},
	"kvm": {CPUs: 4, IO: Window{0x2000, 0xe000}, Mem32: Window{0xc0000000, 0x20000000}, Mem64: Window{5 << 30, 1 << 36},
		ECAM: 0xe0000000, Buses: 256, GSI: gsi, COM1: true, Keyboard: true},
	"bhyve": {CPUs: 16, IO: Window{0x2000, 0xe000}, Mem32: Window{0xc0000000, 0x20000000},
		ECAM: 0xe0000000, Buses: 256, GSI: gsi, ISA: isa, COM1: true, COM2: true, VGA: true, HPET: 0x80860701},
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from what iasl has approved; look, then run with -update, then with -tags iasl", name)
	}
}

// A reader of tables that trusts nothing, as a guest's is.
type reader struct {
	t *testing.T
	m *Tables
}

func (r reader) at(addr uint64, n uint32) []byte {
	r.t.Helper()
	if addr < r.m.Addr || addr-r.m.Addr+uint64(n) > uint64(len(r.m.Blob)) {
		r.t.Fatalf("%#x+%#x lies outside the tables", addr, n)
	}
	return r.m.Blob[addr-r.m.Addr:][:n]
}

func (r reader) table(addr uint64) (string, []byte) {
	r.t.Helper()
	h := r.at(addr, 36)
	b := r.at(addr, binary.LittleEndian.Uint32(h[4:]))
	if sum(b) != 0 {
		r.t.Errorf("%s: bad checksum", h[:4])
	}
	return string(h[:4]), b
}

func sum(b []byte) (s byte) {
	for _, x := range b {
		s += x
	}
	return s
}

// tables reads everything that the root pointer leads to.
func tables(t *testing.T, m *Tables) map[string][]byte {
	r := reader{t, m}
	le := binary.LittleEndian
	root := r.at(m.RSDP, 36)
	if string(root[:8]) != "RSD PTR " || sum(root[:20]) != 0 || sum(root) != 0 || root[15] != 2 || m.RSDP%16 != 0 {
		t.Fatalf("RSDP % x at %#x", root, m.RSDP)
	}
	_, rsdt := r.table(uint64(le.Uint32(root[16:])))
	_, xsdt := r.table(le.Uint64(root[24:]))
	all := map[string][]byte{}
	if (len(rsdt)-36)/4 != (len(xsdt)-36)/8 {
		t.Fatalf("RSDT has %d bytes, XSDT %d", len(rsdt), len(xsdt))
	}
	for i := 36; i < len(xsdt); i += 8 {
		addr := le.Uint64(xsdt[i:])
		if old := le.Uint32(rsdt[36+(i-36)/2:]); uint64(old) != addr {
			t.Errorf("RSDT says %#x, XSDT %#x", old, addr)
		}
		sig, b := r.table(addr)
		all[sig] = b
	}
	f := all["FACP"]
	if f == nil {
		t.Fatal("no FADT")
	}
	if a, b := uint64(le.Uint32(f[40:])), le.Uint64(f[140:]); a != b {
		t.Errorf("DSDT at %#x or %#x", a, b)
	}
	sig, d := r.table(uint64(le.Uint32(f[40:])))
	all[sig] = d
	facs := uint64(le.Uint32(f[36:]))
	if b := r.at(facs, 64); string(b[:4]) != "FACS" || facs%64 != 0 {
		t.Errorf("FACS at %#x: % x", facs, b[:8])
	} else {
		all["FACS"] = b
	}
	return all
}

func TestTables(t *testing.T) {
	for name, c := range configs {
		t.Run(name, func(t *testing.T) {
			m, err := Build(c)
			if err != nil {
				t.Fatal(err)
			}
			if m.Addr != DefaultBase || m.Addr+uint64(len(m.Blob)) > Limit {
				t.Errorf("tables at %#x+%#x", m.Addr, len(m.Blob))
			}
			all := tables(t, m)
			for sig, want := range map[string]bool{"FACP": true, "APIC": true, "DSDT": true, "FACS": true,
				"MCFG": c.ECAM != 0, "HPET": c.HPET != 0, "SPCR": c.COM1} {
				if (all[sig] != nil) != want {
					t.Errorf("%s: there %v, wanted %v", sig, all[sig] != nil, want)
				}
				if want {
					golden(t, name+"-"+sig+".aml", all[sig])
				}
			}
			for sig, n := range map[string]int{"FACP": 276, "SPCR": 80, "HPET": 56, "MCFG": 60,
				"APIC": 44 + 8*c.CPUs + 12 + 2*10 + 6} {
				if b := all[sig]; b != nil && len(b) != n {
					t.Errorf("%s has %d bytes, wanted %d", sig, len(b), n)
				}
			}
			mem, err := guestmem.New([]hv.Region{{Base: 0, Size: 1 << 20}}, [][]byte{make([]byte, 1<<20)})
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Load(mem); err != nil {
				t.Fatal(err)
			}
			b, err := mem.Slice(m.Addr, uint64(len(m.Blob)))
			if err != nil || !bytes.Equal(b, m.Blob) {
				t.Error("not loaded", err)
			}
		})
	}
}

func TestFADTAgreesWithChipset(t *testing.T) {
	m, err := Build(configs["kvm"])
	if err != nil {
		t.Fatal(err)
	}
	f, le := tables(t, m)["FACP"], binary.LittleEndian
	for what, v := range map[string][2]uint64{
		"SCI":         {uint64(le.Uint16(f[46:])), chipset.SCI},
		"SMI_CMD":     {uint64(le.Uint32(f[48:])), chipset.PortSMI},
		"enable":      {uint64(f[52]), chipset.SMIEnable},
		"disable":     {uint64(f[53]), chipset.SMIDisable},
		"PM1a event":  {uint64(le.Uint32(f[56:])), chipset.PortPM1Event},
		"PM1a cntl":   {uint64(le.Uint32(f[64:])), chipset.PortPM1Cntl},
		"timer":       {uint64(le.Uint32(f[76:])), chipset.PortPMTimer},
		"GPE0":        {uint64(le.Uint32(f[80:])), chipset.PortGPE0},
		"reset":       {le.Uint64(f[120:]), chipset.PortReset},
		"reset value": {uint64(f[128]), chipset.ResetValue},
		"S5":          {sleepS5, chipset.SleepS5},
		"RTC":         {0x70, chipset.PortRTC},
		"COM1":        {0x3f8, chipset.PortCOM1},
		"COM2":        {0x2f8, chipset.PortCOM2},
	} {
		if v[0] != v[1] {
			t.Errorf("%s: the tables say %#x, the chipset %#x", what, v[0], v[1])
		}
	}
}

func TestRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no CPU":           func(c *Config) { c.CPUs = 0 },
		"negative CPUs":    func(c *Config) { c.CPUs = -1 },
		"too many CPUs":    func(c *Config) { c.CPUs = 17 },
		"base unaligned":   func(c *Config) { c.Base = 0xf2410 },
		"base too low":     func(c *Config) { c.Base = 0xd0000 },
		"base too high":    func(c *Config) { c.Base = 0x100000 },
		"no room":          func(c *Config) { c.Base = 0xfffc0 },
		"io wraps":         func(c *Config) { c.IO = Window{0x2000, 0xffff} },
		"io over PCI":      func(c *Config) { c.IO = Window{0xc00, 0x100} },
		"mem32 too long":   func(c *Config) { c.Mem32 = Window{0xc0000000, 0x40000001} },
		"mem32 over 4 GiB": func(c *Config) { c.Mem32 = Window{1 << 32, 0x1000} },
		"mem64 below":      func(c *Config) { c.Mem64 = Window{1 << 31, 0x1000} },
		"mem64 wraps":      func(c *Config) { c.Mem64 = Window{1 << 51, 1<<64 - 1} },
		"buses":            func(c *Config) { c.Buses = 257 },
		"negative buses":   func(c *Config) { c.Buses = -1 },
		"ECAM unaligned":   func(c *Config) { c.ECAM = 0xe0000800 },
		"ECAM too high":    func(c *Config) { c.ECAM = 0xf8000000 },
		"bad GSI":          func(c *Config) { c.GSI = func(int, int) int { return 24 } },
		"bad ISA":          func(c *Config) { c.ISA = func(int, int) int { return 2 } },
	} {
		c := configs["kvm"]
		change(&c)
		if m, err := Build(c); !errors.Is(err, ErrConfig) || m != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
