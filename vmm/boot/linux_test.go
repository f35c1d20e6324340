// SPDX-License-Identifier: BSD-2-Clause

package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skepvm/skep/vmm/guestmem"
	"github.com/skepvm/skep/vmm/hv"
)

var le = binary.LittleEndian

// bzImage makes the smallest kernel that the protocol knows: sects sectors of
// setup code, then code.
func bzImage(sects byte, code []byte, change func(h []byte)) []byte {
	b := make([]byte, (int(sects)+1)*512)
	b[offSetupSects] = sects
	le.PutUint16(b[offBootFlag:], bootFlag)
	le.PutUint32(b[offMagic:], headerMagic)
	b[offHeaderLen] = 0x6a // the header ends at 0x26c
	le.PutUint16(b[offVersion:], 0x20f)
	b[offLoadFlags] = loadedHigh
	le.PutUint16(b[offXLoadFlags:], xlfKernel64)
	le.PutUint32(b[offCmdlineSize:], 255)
	le.PutUint32(b[offInitrdMax:], 0x7fffffff)
	le.PutUint64(b[offPrefAddress:], 1<<20)
	le.PutUint32(b[offInitSize:], 64<<10)
	if change != nil {
		change(b)
	}
	return append(b, code...)
}

func code(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

const testMem = 4 << 20

func memory(t testing.TB, size uint64) *guestmem.Memory {
	t.Helper()
	rs := []hv.Region{{Base: 0, Size: size}}
	m, err := guestmem.New(rs, [][]byte{make([]byte, size)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func get(t testing.TB, m *guestmem.Memory, at, n uint64) []byte {
	t.Helper()
	b := make([]byte, n)
	if err := m.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBzImage(t *testing.T) {
	c, initrd := code(5000), code(9001)
	m := memory(t, testMem)
	l := Linux{Kernel: bytes.NewReader(bzImage(3, c, nil)), Initrd: bytes.NewReader(initrd), Cmdline: "console=ttyS0 x"}
	p := Params{CPUs: 1, LowMem: testMem, RSDP: 0xf2400, Reserved: []Range{{0xe0000, 0x20000}}, Rand: strings.NewReader(strings.Repeat("s", 32))}
	if err := l.Check(p); err != nil {
		t.Fatal(err)
	}
	s, err := l.Load(m, p)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(get(t, m, 1<<20, 5000), c) {
		t.Error("the kernel is not where it belongs")
	}
	if s.RIP != 1<<20+0x200 || s.RSI != zeroPage || s.CR3 != pml4 || s.CS.Selector != 0x10 || s.DS.Selector != 0x18 || s.RFLAGS != 2 ||
		s.EFER != 0x500 || s.CR4 != 0x20 || s.CR0&0x80000001 != 0x80000001 {
		t.Errorf("entry state:\n%v", s)
	}
	zp := get(t, m, zeroPage, 4096)
	at := le.Uint32(zp[offRamdisk:])
	if n := le.Uint32(zp[offRamdiskSize:]); n != 9001 || at%4096 != 0 || !bytes.Equal(get(t, m, uint64(at), uint64(n)), initrd) {
		t.Errorf("initrd of %d bytes at %#x", n, at)
	}
	if uint64(at) < 1<<20+64<<10 || uint64(at)+9001 > testMem {
		t.Errorf("initrd at %#x", at)
	}
	if cmd := get(t, m, uint64(le.Uint32(zp[offCmdline:])), 16); string(cmd) != "console=ttyS0 x\x00" {
		t.Errorf("command line %q", cmd)
	}
	if le.Uint64(zp[offRSDP:]) != 0xf2400 || zp[offLoader] != 0xff || le.Uint32(zp[offMagic:]) != headerMagic {
		t.Error("zero page")
	}
	d := get(t, m, le.Uint64(zp[offSetupData:]), 48)
	if le.Uint64(d) != 0 || le.Uint32(d[8:]) != setupRNGSeed || le.Uint32(d[12:]) != 32 || string(d[16:]) != strings.Repeat("s", 32) {
		t.Errorf("setup data % x", d)
	}
	var e820 []MapEntry
	for i := range int(zp[offE820Count]) {
		b := zp[offE820+20*i:]
		e820 = append(e820, MapEntry{le.Uint64(b), le.Uint64(b[8:]), le.Uint32(b[16:])})
	}
	want := []MapEntry{{0, ebda, TypeRAM}, {ebda, 0xa0000 - ebda, TypeReserved}, {0xe0000, 0x20000, TypeReserved}, {1 << 20, 3 << 20, TypeRAM}}
	if len(e820) != len(want) {
		t.Fatalf("memory map %#x", e820)
	}
	for i := range want {
		if e820[i] != want[i] {
			t.Errorf("memory map line %d: %#x, want %#x", i, e820[i], want[i])
		}
	}
	// The identity map reaches what was loaded.
	for _, a := range []uint64{zeroPage, s.RIP, cmdlineMem, uint64(at), 3 << 30} {
		if got := walk(t, m, s.CR3, a); got != a {
			t.Errorf("%#x is mapped to %#x", a, got)
		}
	}
}

// walk translates by the tables in memory.
func walk(t *testing.T, m *guestmem.Memory, cr3, va uint64) uint64 {
	t.Helper()
	at := cr3
	for shift := 39; ; shift -= 9 {
		e := le.Uint64(get(t, m, at+va>>shift&511*8, 8))
		if e&1 == 0 {
			t.Fatalf("%#x is not mapped", va)
		}
		if e&0x80 != 0 || shift == 12 {
			return e&^(1<<shift-1)&(1<<52-1) | va&(1<<shift-1)
		}
		at = e & 0x000ffffffffff000
	}
}

func TestMemoryMap(t *testing.T) {
	got := memoryMap(Params{LowMem: 3 << 30, HighMem: 2 << 30, Reserved: []Range{{0xe0000, 0x20000}, {0xe0000000, 1 << 20}}})
	want := []MapEntry{{0, ebda, 1}, {ebda, 0x400, 2}, {0xe0000, 0x20000, 2}, {1 << 20, 3<<30 - 1<<20, 1}, {0xe0000000, 1 << 20, 2}, {4 << 30, 2 << 30, 1}}
	if len(got) != len(want) {
		t.Fatalf("%#x", got)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("%d: %#x, want %#x", i, got[i], want[i])
		}
	}
	// A reserved range in the middle of RAM cuts it in two.
	got = memoryMap(Params{LowMem: 8 << 20, Reserved: []Range{{4 << 20, 1 << 20}}})
	var ram uint64
	for _, e := range got {
		if e.Type == TypeRAM && e.Base >= 1<<20 {
			ram += e.Size
		}
	}
	if ram != 6<<20 {
		t.Errorf("%#x", got)
	}
}

func vmlinux(change func(b []byte)) []byte {
	b := make([]byte, 64+2*56)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], uint16(elf.ET_EXEC))
	le.PutUint16(b[18:], uint16(elf.EM_X86_64))
	le.PutUint64(b[24:], 1<<20+0x10)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 2)
	seg := func(i int, kind elf.ProgType, off, addr, filesz, memsz uint64) {
		p := b[64+56*i:]
		le.PutUint32(p, uint32(kind))
		le.PutUint64(p[8:], off)
		le.PutUint64(p[24:], addr)
		le.PutUint64(p[32:], filesz)
		le.PutUint64(p[40:], memsz)
	}
	seg(0, elf.PT_LOAD, 176, 1<<20, 300, 0x2000)
	seg(1, elf.PT_LOAD, 476, 1<<20+0x2000, 100, 0x1000)
	if change != nil {
		change(b)
	}
	return append(b, code(400)...)
}

func TestVmlinux(t *testing.T) {
	m := memory(t, testMem)
	s, err := Linux{Kernel: bytes.NewReader(vmlinux(nil)), Cmdline: "a"}.Load(m, Params{CPUs: 1, LowMem: testMem})
	if err != nil {
		t.Fatal(err)
	}
	if s.RIP != 1<<20+0x10 || !bytes.Equal(get(t, m, 1<<20, 300), code(400)[:300]) || !bytes.Equal(get(t, m, 1<<20+0x2000, 100), code(400)[300:]) {
		t.Errorf("rip %#x", s.RIP)
	}
	zp := get(t, m, zeroPage, 4096)
	if le.Uint16(zp[offBootFlag:]) != bootFlag || le.Uint32(zp[offMagic:]) != headerMagic || le.Uint64(zp[offSetupData:]) != 0 {
		t.Error("zero page of an ELF kernel")
	}
}

func TestLinuxRefused(t *testing.T) {
	big := func(f func(h []byte)) []byte { return bzImage(3, code(5000), f) }
	for name, c := range map[string]struct {
		kernel, initrd []byte
		cmdline        string
		mem            uint64
		err            error
		text           string
	}{
		"empty":          {kernel: []byte{}, err: ErrImage, text: "too short"},
		"text":           {kernel: bytes.Repeat([]byte("hello"), 1000), err: ErrImage, text: "neither a bzImage nor an ELF"},
		"old":            {kernel: big(func(h []byte) { le.PutUint16(h[offVersion:], 0x20a) }), err: ErrImage, text: "boot protocol 2.10"},
		"32-bit":         {kernel: big(func(h []byte) { h[offXLoadFlags] = 0 }), err: ErrImage, text: "no 64-bit entry"},
		"low":            {kernel: big(func(h []byte) { h[offLoadFlags] = 0 }), err: ErrImage, text: "no 64-bit entry"},
		"truncated":      {kernel: big(nil)[:2100], err: ErrImage, text: "truncated"},
		"only setup":     {kernel: big(func(h []byte) { h[offSetupSects] = 0xff }), err: ErrImage, text: "truncated"},
		"load address":   {kernel: big(func(h []byte) { le.PutUint64(h[offPrefAddress:], 0x7000) }), err: ErrImage, text: "load address 0x7000"},
		"load unaligned": {kernel: big(func(h []byte) { le.PutUint64(h[offPrefAddress:], 1<<20+1) }), err: ErrImage, text: "load address"},
		"load wraps":     {kernel: big(func(h []byte) { le.PutUint64(h[offPrefAddress:], 1<<64-4096) }), err: ErrImage, text: "load address"},
		"init size":      {kernel: big(func(h []byte) { le.PutUint32(h[offInitSize:], 1<<32-1) }), err: ErrMemory, text: "the kernel needs 4097 MiB"},
		"small guest":    {kernel: big(nil), mem: 1 << 20, err: ErrMemory, text: "the guest has 1 MiB"},
		"big initrd":     {kernel: big(nil), initrd: make([]byte, 3<<20), err: ErrMemory, text: "kernel and initrd"},
		"initrd limit":   {kernel: big(func(h []byte) { le.PutUint32(h[offInitrdMax:], 1<<20) }), initrd: make([]byte, 10), err: ErrMemory, text: "kernel and initrd"},
		"empty initrd":   {kernel: big(nil), initrd: []byte{}, err: ErrImage, text: "it is empty"},
		"long command":   {kernel: big(nil), cmdline: strings.Repeat("x", 256), text: "256 bytes long, this kernel takes 255"},
		"zero byte":      {kernel: big(nil), cmdline: "a\x00b", text: "zero byte"},
		"ELF 32":         {kernel: vmlinux(func(b []byte) { b[4] = 1 }), err: ErrImage, text: "not an executable"},
		"ELF machine":    {kernel: vmlinux(func(b []byte) { b[18] = 3 }), err: ErrImage, text: "not an executable"},
		"ELF header":     {kernel: vmlinux(nil)[:40], err: ErrImage, text: "truncated ELF"},
		"ELF headers":    {kernel: vmlinux(func(b []byte) { le.PutUint64(b[32:], 1<<63) }), err: ErrImage, text: "program headers"},
		"ELF count":      {kernel: vmlinux(func(b []byte) { le.PutUint16(b[56:], 0xffff) }), err: ErrImage, text: "program headers"},
		"ELF low":        {kernel: vmlinux(func(b []byte) { le.PutUint64(b[64+24:], 0x7000) }), err: ErrImage, text: "segment of"},
		"ELF file size":  {kernel: vmlinux(func(b []byte) { le.PutUint64(b[64+32:], 1<<20); le.PutUint64(b[64+40:], 1<<20) }), err: ErrImage, text: "segment of"},
		"ELF memory":     {kernel: vmlinux(func(b []byte) { le.PutUint64(b[64+40:], 1<<63) }), err: ErrImage, text: "segment of"},
		"ELF offset":     {kernel: vmlinux(func(b []byte) { le.PutUint64(b[64+8:], 1<<64-1) }), err: ErrImage, text: "segment of"},
		"ELF overlap":    {kernel: vmlinux(func(b []byte) { le.PutUint64(b[64+56+24:], 1<<20+10) }), err: ErrImage, text: "overlap"},
		"ELF entry":      {kernel: vmlinux(func(b []byte) { le.PutUint64(b[24:], 1<<20+400) }), err: ErrImage, text: "in no segment"},
	} {
		t.Run(name, func(t *testing.T) {
			l := Linux{Kernel: bytes.NewReader(c.kernel), Cmdline: c.cmdline}
			if c.initrd != nil {
				l.Initrd = bytes.NewReader(c.initrd)
			}
			if c.mem == 0 {
				c.mem = testMem
			}
			err := l.Check(Params{CPUs: 1, LowMem: c.mem})
			if err == nil || c.err != nil && !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %v with %q", err, c.err, c.text)
			}
			m := memory(t, testMem)
			if _, err := l.Load(m, Params{CPUs: 1, LowMem: c.mem}); err == nil {
				t.Error("loaded all the same")
			}
			if b := get(t, m, 0, testMem); !bytes.Equal(b, make([]byte, testMem)) {
				t.Error("guest memory was changed")
			}
		})
	}
}

// shrinking is a file that has become shorter than it said.
type shrinking struct{ *bytes.Reader }

func (shrinking) Size() int64 { return 1 << 20 }

func TestFileShrinks(t *testing.T) {
	k := shrinking{bytes.NewReader(bzImage(3, code(5000), nil))}
	if _, err := (Linux{Kernel: k}).Load(memory(t, testMem), Params{LowMem: testMem}); !errors.Is(err, ErrImage) {
		t.Error(err)
	}
}

func TestSizeOf(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 77)); err != nil {
		t.Fatal(err)
	}
	if n, err := sizeOf(f); n != 77 || err != nil {
		t.Error(n, err)
	}
	d, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := sizeOf(d); !errors.Is(err, ErrImage) {
		t.Error(err)
	}
	if _, err := sizeOf(onlyReader{f}); !errors.Is(err, ErrImage) {
		t.Error(err)
	}
}

type onlyReader struct{ f *os.File }

func (o onlyReader) ReadAt(p []byte, off int64) (int, error) { return o.f.ReadAt(p, off) }

// FuzzLinux: whatever a kernel says of itself, it is loaded where the guest has
// memory or refused.
func FuzzLinux(f *testing.F) {
	f.Add(bzImage(3, code(100), nil), []byte("initrd"), "console=ttyS0")
	f.Add(vmlinux(nil), []byte{}, "")
	f.Add(bzImage(1, code(3000), func(h []byte) { le.PutUint32(h[offInitrdMax:], 0) }), []byte{1}, "x")
	mem := make([]byte, testMem)
	m, err := guestmem.New([]hv.Region{{Base: 0, Size: testMem}}, [][]byte{mem})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, kernel, initrd []byte, cmdline string) {
		l := Linux{Kernel: bytes.NewReader(kernel), Cmdline: cmdline}
		if len(initrd) > 0 {
			l.Initrd = bytes.NewReader(initrd)
		}
		p := Params{CPUs: 1, LowMem: testMem, Reserved: []Range{{0xe0000, 0x20000}}}
		checked := l.Check(p)
		s, err := l.Load(m, p)
		if checked == nil && err != nil || checked != nil && err == nil {
			t.Fatalf("Check says %v, Load %v", checked, err)
		}
		if err == nil && (s.RIP < 1<<20 || s.RIP >= testMem) {
			t.Fatalf("entry at %#x", s.RIP)
		}
	})
}
