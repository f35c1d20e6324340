// SPDX-License-Identifier: BSD-2-Clause

package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/skepvm/skep/vmm/guestmem"
	"github.com/skepvm/skep/vmm/hv"
)

// bigMem is guest memory of low bytes, all of it RAM.
func bigMem(t testing.TB, low uint64) *guestmem.Memory {
	t.Helper()
	m, err := guestmem.New([]hv.Region{{Base: 0, Size: low}}, [][]byte{make([]byte, low)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// put overwrites bytes of a file.
func put(b []byte, off int, v any) {
	var w bytes.Buffer
	if err := binary.Write(&w, binary.LittleEndian, v); err != nil {
		panic(err)
	}
	copy(b[off:], w.Bytes())
}

// testKernel makes an ELF kernel with text at 2 MiB and data with bss at 4 MiB.
func testKernel() []byte {
	b := make([]byte, 0x3000)
	h := elf.Header64{Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 9}, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64),
		Version: 1, Entry: fbsdKernBase + 0x200100, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 3, Shentsize: 64}
	put(b, 0, h)
	put(b, 64, []elf.Prog64{
		{Type: uint32(elf.PT_INTERP), Vaddr: 1, Off: 1 << 60, Filesz: 1 << 60},
		{Type: uint32(elf.PT_LOAD), Off: 0, Vaddr: fbsdKernBase + 0x200000, Filesz: 0x2000, Memsz: 0x2000, Align: 1 << 21},
		{Type: uint32(elf.PT_LOAD), Off: 0x2000, Vaddr: fbsdKernBase + 0x400010, Filesz: 0x100, Memsz: 0x3000, Align: 1 << 21},
	})
	copy(b[0x2000:], "kernel data")
	return b
}

// testModule makes a relocatable module: .text, .bss, .rela.text, a section that
// is not loaded, symbols, strings, names.
func testModule() []byte {
	b := make([]byte, 0x800)
	put(b, 0, elf.Header64{Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 9}, Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64),
		Version: 1, Shoff: 0x400, Ehsize: 64, Shentsize: 64, Shnum: 8, Shstrndx: 7})
	alloc := uint64(elf.SHF_ALLOC)
	put(b, 0x400, []elf.Section64{
		{},
		{Type: uint32(elf.SHT_PROGBITS), Flags: alloc, Off: 0x40, Size: 0x31, Addralign: 16, Addr: 0xdead},
		{Type: uint32(elf.SHT_NOBITS), Flags: alloc, Off: 1 << 50, Size: 0x2000, Addralign: 64},
		{Type: uint32(elf.SHT_RELA), Off: 0x80, Size: 24, Info: 1, Link: 5, Addralign: 8},
		{Type: uint32(elf.SHT_PROGBITS), Off: 0x90, Size: 5, Addralign: 1},
		{Type: uint32(elf.SHT_SYMTAB), Off: 0xa0, Size: 48, Link: 6, Addralign: 8},
		{Type: uint32(elf.SHT_STRTAB), Off: 0xd0, Size: 9, Addralign: 1},
		{Type: uint32(elf.SHT_STRTAB), Off: 0xe0, Size: 11, Addralign: 1},
	})
	copy(b[0x40:], "module text")
	copy(b[0x80:], "relocations")
	copy(b[0xa0:], "symbols")
	copy(b[0xd0:], "strings")
	copy(b[0xe0:], "names")
	return b
}

// loaded is what a FreeBSD kernel finds: a list of files, each with its records.
type loaded struct {
	env   map[string]string
	files []map[uint32][]byte
	end   uint64
}

// readLoaded does what the kernel does with its two arguments
// (native_parse_preload_data, preload_search_info, init_static_kenv).
func readLoaded(t testing.TB, mem *guestmem.Memory, s *hv.State) loaded {
	t.Helper()
	le := binary.LittleEndian
	read := func(gpa, n uint64) []byte {
		b, err := mem.Slice(gpa, n)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	stack := read(s.RSP, 12)
	at, l := uint64(le.Uint32(stack[4:])), loaded{env: map[string]string{}, end: uint64(le.Uint32(stack[8:]))}
	for n := 0; ; n++ {
		if n > 10000 || at%8 != 0 {
			t.Fatalf("record %d at %#x", n, at)
		}
		h := read(at, 8)
		kind, size := le.Uint32(h), uint64(le.Uint32(h[4:]))
		if kind == 0 && size == 0 {
			break
		}
		data := read(at+8, size)
		if kind == modinfoName {
			l.files = append(l.files, map[uint32][]byte{})
		}
		f := l.files[len(l.files)-1]
		if f[kind] != nil {
			t.Errorf("record %#x twice", kind)
		}
		f[kind] = data
		at += (8 + size + 7) &^ 7
	}
	if at > l.end {
		t.Errorf("records end at %#x, behind %#x", at, l.end)
	}
	envp := le.Uint64(l.files[0][modinfoMeta|modinfomdEnvp])
	b := read(envp, min(maxFreeBSDEnv, l.end-envp))
	for b[0] != 0 {
		n := bytes.IndexByte(b, 0)
		k, v, ok := strings.Cut(string(b[:n]), "=")
		if !ok {
			t.Fatalf("environment: %q", b[:n])
		}
		l.env[k] = v
		b = b[n+1:]
	}
	return l
}

func (l loaded) u64(file int, kind uint32) uint64 {
	return binary.LittleEndian.Uint64(l.files[file][kind])
}

func (l loaded) str(file int, kind uint32) string {
	return strings.TrimSuffix(string(l.files[file][kind]), "\x00")
}

var testParams = Params{CPUs: 2, LowMem: 64 << 20, HighMem: 1 << 30, RSDP: 0xf2400,
	Reserved: []Range{{0xe0000, 0x20000}, {0xe0000000, 0x10000000}}}

func TestFreeBSD(t *testing.T) {
	image := bytes.Repeat([]byte("root"), 3000)
	p := testParams
	p.Rand = strings.NewReader(strings.Repeat("r", fbsdEntropy))
	f := FreeBSD{Kernel: bytes.NewReader(testKernel()), Verbose: true, SingleUser: true,
		Modules: []FreeBSDModule{{Name: "/boot/kernel/x.ko", File: bytes.NewReader(testModule())},
			{Name: "/boot/root", Type: "mfs_root", File: bytes.NewReader(image)}},
		Env: map[string]string{"vfs.root.mountfrom": "ufs:/dev/md0", "hint.p4tcc.0.disabled": "", "console": "nullconsole"}}
	if err := f.Check(p); err != nil {
		t.Fatal(err)
	}
	mem := bigMem(t, p.LowMem)
	s, err := f.Load(mem, p)
	if err != nil {
		t.Fatal(err)
	}
	if s.RIP != fbsdKernBase+0x200100 || s.CR0 != 0x80000031 || s.CR4 != 0x20 || s.EFER != 0x500 || s.CS.Access>>13&1 != 1 || s.RFLAGS != 2 {
		t.Errorf("state\n%v", s)
	}
	l := readLoaded(t, mem, s)
	if len(l.files) != 4 {
		t.Fatalf("%d files", len(l.files))
	}
	want := [][4]any{
		{"/boot/kernel/kernel", "elf kernel", uint64(0x200000), uint64(0x203010)},
		{"/boot/kernel/x.ko", "elf obj module", uint64(0x404000), uint64(0x20a0)},
		{"/boot/root", "mfs_root", uint64(0x407000), uint64(12000)},
		{"skep_entropy", "boot_entropy_platform", uint64(0x40a000), uint64(2048)},
	}
	for i, w := range want {
		got := [4]any{l.str(i, modinfoName), l.str(i, modinfoType), l.u64(i, modinfoAddr), l.u64(i, modinfoSize)}
		if got != w {
			t.Errorf("file %d: %v, wanted %v", i, got, w)
		}
	}
	bytesAt := func(gpa uint64, want string) {
		t.Helper()
		b, err := mem.Slice(gpa, uint64(len(want)))
		if err != nil || string(b) != want {
			t.Errorf("at %#x: %q, wanted %q", gpa, b, want)
		}
	}
	bytesAt(0x200000, "\x7fELF")
	bytesAt(0x400010, "kernel data")
	bytesAt(0x404000, "module text")
	bytesAt(0x407000, "rootroot")
	bytesAt(0x40a000, "rrrr")
	// The module's sections are where its headers now say.
	raw := l.files[1][modinfoMeta|modinfomdSHdr]
	sh := make([]elf.Section64, len(raw)/64)
	if _, err := binary.Decode(raw, binary.LittleEndian, sh); err != nil || len(sh) != 8 {
		t.Fatal(err, len(sh))
	}
	for i, text := range map[int]string{1: "module text", 3: "relocations", 5: "symbols", 6: "strings", 7: "names"} {
		bytesAt(sh[i].Addr, text)
		if sh[i].Addr%max(sh[i].Addralign, 1) != 0 {
			t.Errorf("section %d at %#x", i, sh[i].Addr)
		}
	}
	if sh[2].Addr == 0 || sh[2].Addr%64 != 0 || sh[4].Addr != 0 {
		t.Errorf("bss at %#x, a section that is not loaded at %#x", sh[2].Addr, sh[4].Addr)
	}
	if h := binary.LittleEndian.Uint32(l.files[0][modinfoMeta|modinfomdHowto]); h != 0x1802 {
		t.Errorf("howto %#x", h)
	}
	if e := l.u64(0, modinfoMeta|modinfomdKernEnd); e != l.end || e%0x1000 != 0 || e < 0x40b000 {
		t.Errorf("kernend %#x, %#x", e, l.end)
	}
	for k, v := range map[string]string{"vfs.root.mountfrom": "ufs:/dev/md0", "console": "nullconsole", "acpi.rsdp": "0xf2400",
		"hint.acpi.0.rsdp": "0xf2400", "hint.uart.0.port": "0x3F8", "boot_serial": "YES"} {
		if l.env[k] != v {
			t.Errorf("environment: %s=%q, wanted %q", k, l.env[k], v)
		}
	}
	if _, ok := l.env["hint.p4tcc.0.disabled"]; ok {
		t.Error("an empty value does not remove a variable")
	}
	smap := l.files[0][modinfoMeta|modinfomdSMAP]
	var got string
	for ; len(smap) > 0; smap = smap[20:] {
		le := binary.LittleEndian
		got += fmt.Sprintf("%x+%x:%d ", le.Uint64(smap), le.Uint64(smap[8:]), le.Uint32(smap[16:]))
	}
	for _, w := range []string{"0+", "100000+3f00000:1 ", "e0000+20000:2 ", "e0000000+10000000:2 ", "100000000+40000000:1 "} {
		if !strings.Contains(got, w) {
			t.Errorf("SMAP %s lacks %s", got, w)
		}
	}
	// Its own addresses are mapped as the kernel expects (amd64_loadaddr).
	walk := func(va uint64) uint64 {
		at := s.CR3
		for shift := 39; shift >= 21; shift -= 9 {
			e, err := mem.LoadU64(at + va>>shift&511*8)
			if err != nil || e&3 != 3 {
				t.Fatalf("%#x is not mapped: %#x, %v", va, e, err)
			}
			if at = e &^ 0xfff; e&0x80 != 0 {
				return at + va&(1<<shift-1)
			}
		}
		t.Fatalf("%#x: no page", va)
		return 0
	}
	for va, pa := range map[uint64]uint64{fbsdKernBase + 2<<20: 2 << 20, s.RIP: 0x200100, 0x1000: 0x1000, 0x3fffffff: 0x3fffffff} {
		if got := walk(va); got != pa {
			t.Errorf("%#x is mapped to %#x, wanted %#x", va, got, pa)
		}
	}
}

// changed is a copy of b with v at off.
func changed(b []byte, off int, v any) []byte {
	b = bytes.Clone(b)
	put(b, off, v)
	return b
}

func TestFreeBSDSharedObject(t *testing.T) {
	b := testKernel()
	put(b, 16, uint16(elf.ET_DYN))
	put(b, 64, []elf.Prog64{
		{Type: uint32(elf.PT_DYNAMIC), Vaddr: 0x1020},
		{Type: uint32(elf.PT_LOAD), Off: 0, Vaddr: 0, Filesz: 0x100, Memsz: 0x100},
		{Type: uint32(elf.PT_LOAD), Off: 0x2000, Vaddr: 0x1010, Filesz: 0x100, Memsz: 0x300},
	})
	f := FreeBSD{Kernel: bytes.NewReader(testKernel()), Modules: []FreeBSDModule{{Name: "so", File: bytes.NewReader(b)}}}
	mem := bigMem(t, testParams.LowMem)
	s, err := f.Load(mem, testParams)
	if err != nil {
		t.Fatal(err)
	}
	l := readLoaded(t, mem, s)
	if l.str(1, modinfoType) != "elf module" || l.u64(1, modinfoSize) != 0x1310 || l.u64(1, modinfoMeta|modinfomdDynamic) != 0x1020 {
		t.Errorf("%v", l.files[1])
	}
}

func TestFreeBSDRefused(t *testing.T) {
	k, m := testKernel(), testModule()
	kernel := func(off int, v any) FreeBSD { return FreeBSD{Kernel: bytes.NewReader(changed(k, off, v))} }
	module := func(off int, v any) FreeBSD {
		return FreeBSD{Kernel: bytes.NewReader(k), Modules: []FreeBSDModule{{Name: "m", File: bytes.NewReader(changed(m, off, v))}}}
	}
	mods := func(ms ...FreeBSDModule) FreeBSD { return FreeBSD{Kernel: bytes.NewReader(k), Modules: ms} }
	file := bytes.NewReader(m)
	const text, data = 64 + 56, 64 + 2*56 // program headers
	sect := func(i, off int) int { return 0x400 + 64*i + off }
	for name, c := range map[string]struct {
		f    FreeBSD
		want error
	}{
		"no kernel":           {FreeBSD{}, ErrImage},
		"empty kernel":        {FreeBSD{Kernel: bytes.NewReader(nil)}, ErrImage},
		"no ELF":              {kernel(0, uint32(0)), ErrImage},
		"32 bits":             {kernel(4, uint8(1)), ErrImage},
		"big endian":          {kernel(5, uint8(2)), ErrImage},
		"arm":                 {kernel(18, uint16(elf.EM_AARCH64)), ErrImage},
		"shared kernel":       {kernel(16, uint16(elf.ET_DYN)), ErrImage},
		"entry outside":       {kernel(24, uint64(fbsdKernBase)), ErrImage},
		"headers outside":     {kernel(32, uint64(1<<63)), ErrImage},
		"many headers":        {kernel(56, uint16(65535)), ErrImage},
		"no headers":          {kernel(56, uint16(0)), ErrImage},
		"header size":         {kernel(54, uint16(57)), ErrImage},
		"in low memory":       {kernel(text+16, uint64(fbsdKernBase+0x5000)), ErrImage},
		"below the base":      {kernel(text+16, uint64(0x200000)), ErrImage},
		"address wraps":       {kernel(data+40, uint64(1<<63)), ErrImage},
		"too high":            {kernel(data+16, uint64(fbsdKernBase+62<<20)), ErrMemory},
		"ends too high":       {kernel(data+40, uint64(0x40000000)), ErrMemory},
		"file beyond memory":  {kernel(data+32, uint64(0x3001)), ErrImage},
		"file outside":        {kernel(data+8, uint64(1<<62)), ErrImage},
		"overlap":             {kernel(data+16, uint64(fbsdKernBase+0x200800)), ErrImage},
		"nameless":            {mods(FreeBSDModule{File: file}), nil},
		"NUL in a name":       {mods(FreeBSDModule{Name: "a\x00", File: file}), nil},
		"long name":           {mods(FreeBSDModule{Name: strings.Repeat("a", 1024), File: file}), nil},
		"twice":               {mods(FreeBSDModule{Name: "a", File: file}, FreeBSDModule{Name: "a", File: file}), nil},
		"many modules":        {mods(make([]FreeBSDModule, 257)...), nil},
		"unknown type":        {mods(FreeBSDModule{Name: "a", Type: "elf kernel", File: file}), ErrImage},
		"no file":             {mods(FreeBSDModule{Name: "a"}), ErrImage},
		"no image":            {mods(FreeBSDModule{Name: "a", Type: "md_image"}), ErrImage},
		"empty image":         {mods(FreeBSDModule{Name: "a", Type: "md_image", File: bytes.NewReader(nil)}), ErrImage},
		"big image":           {mods(FreeBSDModule{Name: "a", Type: "md_image", File: bytes.NewReader(make([]byte, 61<<20))}), ErrMemory},
		"image with no room":  {mods(FreeBSDModule{Name: "a", Type: "md_image", File: bytes.NewReader(make([]byte, 53<<20))}), ErrMemory},
		"kernel as module":    {mods(FreeBSDModule{Name: "a", File: bytes.NewReader(k)}), ErrImage},
		"sections outside":    {module(40, uint64(0x601)), ErrImage},
		"many sections":       {module(60, uint16(0xffff)), ErrImage},
		"no sections":         {module(60, uint16(0)), ErrImage},
		"section header size": {module(58, uint16(65)), ErrImage},
		"no names":            {module(62, uint16(0)), ErrImage},
		"names outside":       {module(62, uint16(8)), ErrImage},
		"no symbols":          {module(sect(5, 4), uint32(elf.SHT_NOTE)), ErrImage},
		"two symbol tables":   {module(sect(4, 4), uint32(elf.SHT_SYMTAB)), ErrImage},
		"strings outside":     {module(sect(5, 40), uint32(9)), ErrImage},
		"strings elsewhere":   {module(sect(5, 40), uint32(4)), ErrImage},
		"relocates nothing":   {module(sect(3, 44), uint32(8)), ErrImage},
		"alignment":           {module(sect(1, 48), uint64(3)), ErrImage},
		"huge alignment":      {module(sect(1, 48), uint64(1<<62)), ErrImage},
		"huge bss":            {module(sect(2, 32), uint64(1<<63)), ErrMemory},
		"huge text":           {module(sect(1, 32), uint64(1<<20)), ErrImage},
		"text outside":        {module(sect(1, 24), uint64(0x7d0)), ErrImage},
		"nothing to load":     {mods(FreeBSDModule{Name: "a", File: bytes.NewReader(changed(changed(m, sect(1, 8), uint64(0)), sect(2, 8), uint64(0)))}), ErrImage},
		"bad variable":        {FreeBSD{Kernel: bytes.NewReader(k), Env: map[string]string{"a=b": "c"}}, nil},
		"nameless variable":   {FreeBSD{Kernel: bytes.NewReader(k), Env: map[string]string{"": "c"}}, nil},
		"NUL in a variable":   {FreeBSD{Kernel: bytes.NewReader(k), Env: map[string]string{"a": "c\x00d"}}, nil},
		"huge environment":    {FreeBSD{Kernel: bytes.NewReader(k), Env: map[string]string{"a": strings.Repeat("b", 1<<16)}}, nil},
	} {
		err := c.f.Check(testParams)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.HasPrefix(err.Error(), "freebsd: ") {
			t.Errorf("%s: %v, wanted %v", name, err, c.want)
		}
	}
	small := testParams
	small.LowMem = 8 << 20
	if err := (FreeBSD{Kernel: bytes.NewReader(k)}).Check(small); !errors.Is(err, ErrMemory) {
		t.Errorf("8 MiB: %v", err)
	}
	f, mem := FreeBSD{Kernel: bytes.NewReader(k)}, bigMem(t, testParams.LowMem)
	p := testParams
	p.Rand = strings.NewReader("short")
	if _, err := f.Load(mem, p); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("no randomness: %v", err)
	}
}

// FuzzFreeBSD: whatever kernel and module, the loader refuses or leaves a list
// that the kernel can read, and touches nothing beyond what it says.
func FuzzFreeBSD(f *testing.F) {
	f.Add(testKernel()[:0x200], testModule(), "a", "b")
	f.Add([]byte("\x7fELF"), []byte{}, "", "")
	p := testParams
	p.LowMem = 16 << 20
	mem := bigMem(f, p.LowMem) // what an earlier run left in it does not matter
	f.Fuzz(func(t *testing.T, head, module []byte, key, value string) {
		kernel := testKernel()
		copy(kernel, head)
		if len(module) > 1<<16 {
			return
		}
		src := FreeBSD{Kernel: bytes.NewReader(kernel), Modules: []FreeBSDModule{{Name: "m", File: bytes.NewReader(module)}},
			Env: map[string]string{key: value}}
		b, err := src.plan(p)
		if err != nil {
			return
		}
		s, err := src.Load(mem, p)
		if err != nil {
			t.Fatalf("planned, but not loaded: %v", err)
		}
		l := readLoaded(t, mem, s)
		last := uint64(fbsdLoadMin)
		for i := range l.files {
			addr, size := l.u64(i, modinfoAddr), l.u64(i, modinfoSize)
			if addr < last || addr+size < addr || addr+size > l.end {
				t.Fatalf("file %d at %#x+%#x, after %#x, end %#x", i, addr, size, last, l.end)
			}
			for _, part := range b.files[i].parts {
				if part.seg.addr < addr || part.seg.addr+part.seg.size > addr+size {
					t.Fatalf("file %d at %#x+%#x: part %+v", i, addr, size, part.seg)
				}
			}
			last = addr + size
		}
		if l.end+fbsdRoom > p.LowMem {
			t.Fatalf("end %#x", l.end)
		}
	})
}
