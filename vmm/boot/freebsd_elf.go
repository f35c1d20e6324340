// SPDX-License-Identifier: BSD-2-Clause

package boot

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
)

const (
	ehdrSize, phdrSize, shdrSize = 64, 56, 64
	maxSections                  = 4096
	shtX86Unwind                 = 0x70000001
)

// elfHead is the header of an ELF file for x86-64.
type elfHead struct {
	raw          []byte // 64 bytes
	size         uint64 // of the file
	kind         elf.Type
	entry        uint64
	phoff, shoff uint64
	phnum, shnum uint64
	shstrndx     uint64
}

func readELFHead(r io.ReaderAt) (*elfHead, error) {
	if r == nil {
		return nil, fmt.Errorf("%w: no file given", ErrImage)
	}
	n, err := sizeOf(r)
	if err != nil {
		return nil, err
	}
	if n < ehdrSize {
		return nil, fmt.Errorf("%w: %d bytes are no ELF file", ErrImage, n)
	}
	h := make([]byte, ehdrSize)
	if err := readFull(r, h, 0); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if string(h[:4]) != elf.ELFMAG || elf.Class(h[4]) != elf.ELFCLASS64 || elf.Data(h[5]) != elf.ELFDATA2LSB ||
		h[6] != byte(elf.EV_CURRENT) || elf.Machine(le.Uint16(h[18:])) != elf.EM_X86_64 {
		return nil, fmt.Errorf("%w: not an ELF file for x86-64", ErrImage)
	}
	e := &elfHead{raw: h, size: uint64(n), kind: elf.Type(le.Uint16(h[16:])), entry: le.Uint64(h[24:]),
		phoff: le.Uint64(h[32:]), shoff: le.Uint64(h[40:]), phnum: uint64(le.Uint16(h[56:])),
		shnum: uint64(le.Uint16(h[60:])), shstrndx: uint64(le.Uint16(h[62:]))}
	if e.phnum != 0 && le.Uint16(h[54:]) != phdrSize || e.shnum != 0 && le.Uint16(h[58:]) != shdrSize {
		return nil, fmt.Errorf("%w: ELF headers of unknown size", ErrImage)
	}
	return e, nil
}

// inFile tells whether n bytes at off lie in the file.
func (e *elfHead) inFile(off, n uint64) bool { return off <= e.size && n <= e.size-off }

// loads returns the PT_LOAD headers, and the address of PT_DYNAMIC or 0.
func (e *elfHead) loads(r io.ReaderAt) (load []elf.Prog64, dynamic uint64, err error) {
	if e.phnum == 0 || e.phnum > maxProgramHeaders || !e.inFile(e.phoff, e.phnum*phdrSize) {
		return nil, 0, fmt.Errorf("%w: %d program headers at %#x", ErrImage, e.phnum, e.phoff)
	}
	b := make([]byte, e.phnum*phdrSize)
	if err := readFull(r, b, int64(e.phoff)); err != nil {
		return nil, 0, err
	}
	for ; len(b) > 0; b = b[phdrSize:] {
		var p elf.Prog64
		if _, err := binary.Decode(b, binary.LittleEndian, &p); err != nil {
			return nil, 0, fmt.Errorf("%w: program header: %v", ErrImage, err)
		}
		switch elf.ProgType(p.Type) {
		case elf.PT_DYNAMIC:
			dynamic = p.Vaddr
		case elf.PT_LOAD:
			if p.Filesz > p.Memsz || !e.inFile(p.Off, p.Filesz) || p.Vaddr+p.Memsz < p.Vaddr {
				return nil, 0, fmt.Errorf("%w: segment of %#x bytes (%#x in the file at %#x) at %#x", ErrImage,
					p.Memsz, p.Filesz, p.Off, p.Vaddr)
			}
			if n := len(load); n > 0 && p.Vaddr < load[n-1].Vaddr+load[n-1].Memsz {
				return nil, 0, fmt.Errorf("%w: segments overlap or are out of order at %#x", ErrImage, p.Vaddr)
			}
			load = append(load, p)
		}
	}
	if len(load) == 0 {
		return nil, 0, fmt.Errorf("%w: nothing to load", ErrImage)
	}
	return load, dynamic, nil
}

// planFreeBSDKernel places a kernel where it was linked to be.
func planFreeBSDKernel(r io.ReaderAt, limit uint64) (fbsdFile, uint64, error) {
	none := fbsdFile{}
	e, err := readELFHead(r)
	if err != nil {
		return none, 0, err
	}
	if e.kind != elf.ET_EXEC {
		return none, 0, fmt.Errorf("%w: ELF type %v is no kernel", ErrImage, e.kind)
	}
	load, _, err := e.loads(r)
	if err != nil {
		return none, 0, err
	}
	f := fbsdFile{name: fbsdEnv["kernelname"], kind: "elf kernel", meta: []fbsdRecord{{modinfomdELFHdr, e.raw}}}
	entered := false
	for _, p := range load {
		if p.Vaddr < fbsdKernBase+fbsdLoadMin {
			return none, 0, fmt.Errorf("%w: segment at %#x: a FreeBSD kernel lies above %#x", ErrImage, p.Vaddr, uint64(fbsdKernBase+fbsdLoadMin))
		}
		addr := p.Vaddr - fbsdKernBase
		if addr+p.Memsz > limit {
			return none, 0, fmt.Errorf("%w: the kernel ends at %#x, and the guest's memory for it at %#x", ErrMemory, addr+p.Memsz, limit)
		}
		if f.addr == 0 {
			f.addr = addr
		}
		f.size = addr + p.Memsz - f.addr
		f.parts = append(f.parts, fbsdPart{r, segment{addr, p.Off, p.Filesz}})
		entered = entered || e.entry >= p.Vaddr && e.entry-p.Vaddr < p.Filesz
	}
	if !entered {
		return none, 0, fmt.Errorf("%w: entry point %#x is in no segment", ErrImage, e.entry)
	}
	return f, e.entry, nil
}

// planFreeBSDModule places a file at the page boundary at.
func planFreeBSDModule(m FreeBSDModule, at, limit uint64) (fbsdFile, error) {
	f := fbsdFile{name: m.Name, kind: m.Type, addr: at}
	tooBig := func() error {
		return fmt.Errorf("%w: it ends at %#x, and the guest's memory for it at %#x", ErrMemory, f.addr+f.size, limit)
	}
	switch m.Type {
	case "":
	case "md_image", "mfs_root":
		if m.File == nil {
			return f, fmt.Errorf("%w: no file given", ErrImage)
		}
		n, err := sizeOf(m.File)
		if err != nil {
			return f, err
		}
		if n <= 0 {
			return f, fmt.Errorf("%w: it is empty", ErrImage)
		}
		f.size = uint64(n)
		if at > limit || f.size > limit-at {
			return f, tooBig()
		}
		f.parts = []fbsdPart{{m.File, segment{at, 0, f.size}}}
		return f, nil
	default:
		return f, fmt.Errorf("%w: unknown type %q", ErrImage, m.Type)
	}
	e, err := readELFHead(m.File)
	if err != nil {
		return f, err
	}
	switch e.kind {
	case elf.ET_REL:
		err = f.planObject(e, m.File, limit)
	case elf.ET_DYN:
		err = f.planShared(e, m.File, limit)
	default:
		err = fmt.Errorf("%w: ELF type %v is no kernel module", ErrImage, e.kind)
	}
	if err == nil && (f.addr > limit || f.size > limit-f.addr) {
		err = tooBig()
	}
	return f, err
}

// planShared places a module that is a shared object.
func (f *fbsdFile) planShared(e *elfHead, r io.ReaderAt, limit uint64) error {
	load, dynamic, err := e.loads(r)
	if err != nil {
		return err
	}
	base := load[0].Vaddr &^ 0xfff
	if dynamic < base {
		return fmt.Errorf("%w: a shared object without dynamic section", ErrImage)
	}
	f.kind = "elf module"
	for _, p := range load {
		off := p.Vaddr - base
		if off > limit || p.Memsz > limit {
			return fmt.Errorf("%w: segment of %#x bytes at %#x", ErrMemory, p.Memsz, p.Vaddr)
		}
		f.size = off + p.Memsz
		f.parts = append(f.parts, fbsdPart{r, segment{f.addr + off, p.Off, p.Filesz}})
	}
	f.meta = []fbsdRecord{{modinfomdELFHdr, e.raw},
		{modinfomdDynamic, binary.LittleEndian.AppendUint64(nil, dynamic-base)}}
	return nil
}

// planObject places a relocatable module, which is what amd64 has: sections that
// the kernel needs one after the other, and the section headers with the
// addresses that they got, by which the kernel links it.
func (f *fbsdFile) planObject(e *elfHead, r io.ReaderAt, limit uint64) error {
	if e.shnum == 0 || e.shnum > maxSections || !e.inFile(e.shoff, e.shnum*shdrSize) {
		return fmt.Errorf("%w: %d section headers at %#x", ErrImage, e.shnum, e.shoff)
	}
	raw := make([]byte, e.shnum*shdrSize)
	if err := readFull(r, raw, int64(e.shoff)); err != nil {
		return err
	}
	sh := make([]elf.Section64, e.shnum)
	if _, err := binary.Decode(raw, binary.LittleEndian, sh); err != nil {
		return fmt.Errorf("%w: section headers: %v", ErrImage, err)
	}
	symtab := -1
	for i := range sh {
		sh[i].Addr = 0
		if elf.SectionType(sh[i].Type) == elf.SHT_SYMTAB {
			if symtab >= 0 {
				return fmt.Errorf("%w: more than one symbol table", ErrImage)
			}
			symtab = i
		}
	}
	isStrings := func(i uint64) bool {
		return i > 0 && i < e.shnum && elf.SectionType(sh[i].Type) == elf.SHT_STRTAB
	}
	if symtab < 0 || !isStrings(uint64(sh[symtab].Link)) || !isStrings(e.shstrndx) {
		return fmt.Errorf("%w: symbols, their names or the sections' names are missing", ErrImage)
	}

	at := f.addr
	place := func(i int) error {
		s := &sh[i]
		if s.Addr != 0 { // names of symbols and sections may share a table
			return nil
		}
		align := max(s.Addralign, 1)
		if align&(align-1) != 0 || align > 1<<21 {
			return fmt.Errorf("%w: section %d is aligned to %#x", ErrImage, i, s.Addralign)
		}
		at = (at + align - 1) &^ (align - 1)
		if at > limit || s.Size > limit-at {
			return fmt.Errorf("%w: section %d of %#x bytes", ErrMemory, i, s.Size)
		}
		s.Addr = at
		if elf.SectionType(s.Type) != elf.SHT_NOBITS {
			if !e.inFile(s.Off, s.Size) {
				return fmt.Errorf("%w: section %d: %#x bytes at %#x are not in the file", ErrImage, i, s.Size, s.Off)
			}
			f.parts = append(f.parts, fbsdPart{r, segment{at, s.Off, s.Size}})
		}
		at += s.Size
		return nil
	}
	alloc := func(i uint64) bool { return sh[i].Flags&uint64(elf.SHF_ALLOC) != 0 }
	var order []int
	for i := range sh {
		switch elf.SectionType(sh[i].Type) {
		case elf.SHT_PROGBITS, elf.SHT_NOBITS, shtX86Unwind, elf.SHT_INIT_ARRAY, elf.SHT_FINI_ARRAY:
			if sh[i].Size != 0 && alloc(uint64(i)) {
				order = append(order, i)
			}
		}
	}
	if len(order) == 0 {
		return fmt.Errorf("%w: nothing to load", ErrImage)
	}
	order = append(order, symtab, int(sh[symtab].Link), int(e.shstrndx))
	for i := range sh {
		switch elf.SectionType(sh[i].Type) {
		case elf.SHT_REL, elf.SHT_RELA:
			if uint64(sh[i].Info) >= e.shnum {
				return fmt.Errorf("%w: section %d relocates section %d of %d", ErrImage, i, sh[i].Info, e.shnum)
			}
			if alloc(uint64(sh[i].Info)) {
				order = append(order, i)
			}
		}
	}
	for _, i := range order {
		if err := place(i); err != nil {
			return err
		}
	}
	for i := range sh {
		binary.LittleEndian.PutUint64(raw[i*shdrSize+16:], sh[i].Addr)
	}
	f.kind, f.size = "elf obj module", at-f.addr
	f.meta = []fbsdRecord{{modinfomdELFHdr, e.raw}, {modinfomdSHdr, raw}}
	return nil
}
