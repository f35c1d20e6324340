// SPDX-License-Identifier: BSD-2-Clause

package acpi

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

func TestAML(t *testing.T) {
	for want, enc := range map[string]func(*aml) []byte{
		"00":                           func(a *aml) []byte { return a.integer(0) },
		"01":                           func(a *aml) []byte { return a.integer(1) },
		"0aff":                         func(a *aml) []byte { return a.integer(0xff) },
		"0b0001":                       func(a *aml) []byte { return a.integer(0x100) },
		"0c00000100":                   func(a *aml) []byte { return a.integer(0x10000) },
		"0e0000000001000000":           func(a *aml) []byte { return a.integer(1 << 32) },
		"0c41d00a08":                   func(a *aml) []byte { return a.eisaID("PNP0A08") },
		"5f53425f":                     func(a *aml) []byte { return a.name("_SB") },
		"5c00":                         func(a *aml) []byte { return a.name("\\") },
		"5e5e2e5f53425f50434930":       func(a *aml) []byte { return a.name("^^_SB.PCI0") },
		"2f03415f5f5f425f5f5f435f5f5f": func(a *aml) []byte { return a.name("A.B.C") },
		"0d686900":                     func(a *aml) []byte { return a.str("hi") },
		"1207040a05000000":             func(a *aml) []byte { return a.list(a.integer(5), a.integer(0), a.integer(0), a.integer(0)) },
		"11050a027900":                 func(a *aml) []byte { return a.resources() },
		"221000":                       func(a *aml) []byte { return a.irq(4) },
		"4701f803f8030108":             func(a *aml) []byte { return a.io(0x3f8, 8) },
		"86090001000000e000000010":     func(a *aml) []byte { return a.memory32(0xe0000000, 0x10000000) },
	} {
		a := &aml{}
		if got := hex.EncodeToString(enc(a)); got != want || a.err != nil {
			t.Errorf("got %s, wanted %s (%v)", got, want, a.err)
		}
	}
}

func TestAMLRefuses(t *testing.T) {
	for name, enc := range map[string]func(*aml) []byte{
		"long segment":   func(a *aml) []byte { return a.name("ABCDE") },
		"lower case":     func(a *aml) []byte { return a.name("abc") },
		"digit first":    func(a *aml) []byte { return a.name("1ABC") },
		"empty segment":  func(a *aml) []byte { return a.name("A..B") },
		"trailing dot":   func(a *aml) []byte { return a.name("A.") },
		"many segments":  func(a *aml) []byte { return a.name(strings.Repeat("A.", 256) + "A") },
		"short id":       func(a *aml) []byte { return a.eisaID("PNP") },
		"bad id":         func(a *aml) []byte { return a.eisaID("pnp0A08") },
		"bad id number":  func(a *aml) []byte { return a.eisaID("PNP0G08") },
		"string":         func(a *aml) []byte { return a.str("a\x00") },
		"long list":      func(a *aml) []byte { return a.list(make([][]byte, 256)...) },
		"arguments":      func(a *aml) []byte { return a.method("M", 8) },
		"argument":       func(a *aml) []byte { return a.arg(7) },
		"irq":            func(a *aml) []byte { return a.irq(16) },
		"negative irq":   func(a *aml) []byte { return a.irq(-1) },
		"no ports":       func(a *aml) []byte { return a.io(0x70, 0) },
		"ports wrap":     func(a *aml) []byte { return a.io(0xffff, 2) },
		"many ports":     func(a *aml) []byte { return a.io(0, 256) },
		"memory":         func(a *aml) []byte { return a.memory32(0xfffff000, 0x2000) },
		"no memory":      func(a *aml) []byte { return a.memory32(0, 0) },
		"empty space":    func(a *aml) []byte { return a.space(4, spaceMemory, 0, 0, 0) },
		"space wraps":    func(a *aml) []byte { return a.space(8, spaceMemory, 0, 1<<63, 1<<63+1) },
		"space too wide": func(a *aml) []byte { return a.space(2, spaceIO, 0, 0x8000, 0x8001) },
		"space width":    func(a *aml) []byte { return a.space(3, spaceIO, 0, 0, 1) },
		"package":        func(a *aml) []byte { return a.pkgLength(maxPkgLength - 3) },
		"negative":       func(a *aml) []byte { return a.pkgLength(-1) },
	} {
		a := &aml{}
		if enc(a); a.err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// parsePkgLength is section 20.2.4 read the other way.
func parsePkgLength(b []byte) (length, used int) {
	extra := int(b[0] >> 6)
	if extra == 0 {
		return int(b[0] & 0x3f), 1
	}
	length = int(b[0] & 0xf)
	for i := range extra {
		length |= int(b[1+i]) << (4 + 8*i)
	}
	return length, 1 + extra
}

func FuzzPkgLength(f *testing.F) {
	for _, n := range []int{0, 1, 62, 63, 64, 4093, 4094, 1<<20 - 4, 1<<20 - 3, maxPkgLength - 4, maxPkgLength - 3, -1, 1 << 40} {
		f.Add(n)
	}
	f.Fuzz(func(t *testing.T, n int) {
		a := &aml{}
		b := a.pkgLength(n)
		if n < 0 || n > maxPkgLength-4 {
			if a.err == nil {
				t.Fatalf("%d: taken as % x", n, b)
			}
			return
		}
		length, used := parsePkgLength(b)
		if a.err != nil || used != len(b) || length != n+used {
			t.Fatalf("%d: % x reads as %d of %d bytes (%v)", n, b, length, used, a.err)
		}
		if b[0]>>6 != 0 && b[0]&0x30 != 0 {
			t.Fatalf("%d: % x has reserved bits", n, b)
		}
		for shorter := 1; shorter < used; shorter++ {
			if limit := map[int]int{1: 0x3f, 2: 0xfff, 3: 0xfffff}[shorter]; n+shorter <= limit {
				t.Fatalf("%d: % x could have %d bytes", n, b, shorter)
			}
		}
	})
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"\\_SB.PCI0", "^^A", "A.B.C", "", ".", "A..B", "\\^A"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a := &aml{}
		b := a.name(s)
		if (a.err != nil) != (b == nil) {
			t.Fatalf("%q: % x, %v", s, b, a.err)
		}
		if b == nil {
			return
		}
		if i := bytes.IndexFunc(b[:len(b)-1], func(r rune) bool { return r == 0 }); i >= 0 && b[0] != 0x2f {
			t.Fatalf("%q: a zero inside % x", s, b)
		}
	})
}

// FuzzBuild: whatever the configuration, Build answers with whole tables below
// 1 MiB or an error.
func FuzzBuild(f *testing.F) {
	f.Add(4, uint64(0), uint64(0x2000), uint64(0xe000), uint64(0xc0000000), uint64(0x20000000), uint64(0xe0000000), 256, true, uint32(1))
	f.Add(16, uint64(0xfff00), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0), 0, false, uint32(0))
	f.Fuzz(func(t *testing.T, cpus int, base, io, iosize, mem, memsize, ecam uint64, buses int, com bool, hpet uint32) {
		m, err := Build(Config{CPUs: cpus, Base: base, IO: Window{io, iosize}, Mem32: Window{mem, memsize},
			Mem64: Window{mem << 16, memsize << 16}, ECAM: ecam, Buses: buses, GSI: gsi, COM1: com, Keyboard: com, HPET: hpet})
		if err != nil {
			return
		}
		if m.Addr+uint64(len(m.Blob)) > Limit {
			t.Fatalf("tables end at %#x", m.Addr+uint64(len(m.Blob)))
		}
		tables(t, m)
	})
}
