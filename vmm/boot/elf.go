// SPDX-License-Identifier: BSD-2-Clause

package boot

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
)

const maxProgramHeaders = 64

// planELF reads the program headers of an uncompressed vmlinux: its entry point
// is the physical address of startup_64, which the 64-bit protocol enters.
func planELF(r io.ReaderAt, h []byte, size uint64) (*linuxPlan, error) {
	le := binary.LittleEndian
	if len(h) < 64 {
		return nil, fmt.Errorf("%w: truncated ELF header", ErrImage)
	}
	if elf.Class(h[4]) != elf.ELFCLASS64 || elf.Data(h[5]) != elf.ELFDATA2LSB || elf.Machine(le.Uint16(h[18:])) != elf.EM_X86_64 ||
		elf.Type(le.Uint16(h[16:])) != elf.ET_EXEC {
		return nil, fmt.Errorf("%w: not an executable ELF file for x86-64", ErrImage)
	}
	entry, phoff := le.Uint64(h[24:]), le.Uint64(h[32:])
	entsize, count := uint64(le.Uint16(h[54:])), uint64(le.Uint16(h[56:]))
	if entsize != 56 || count == 0 || count > maxProgramHeaders || phoff > size || count*entsize > size-phoff {
		return nil, fmt.Errorf("%w: %d program headers of %d bytes at %#x", ErrImage, count, entsize, phoff)
	}
	table := make([]byte, count*entsize)
	if err := readFull(r, table, int64(phoff)); err != nil {
		return nil, err
	}
	p := &linuxPlan{entry: entry, cmdlineMax: defaultCmdline, initrdMax: defaultInitrd}
	var entered bool
	for ; len(table) > 0; table = table[entsize:] {
		if elf.ProgType(le.Uint32(table)) != elf.PT_LOAD {
			continue
		}
		off, addr, filesz, memsz := le.Uint64(table[8:]), le.Uint64(table[24:]), le.Uint64(table[32:]), le.Uint64(table[40:])
		if addr < 1<<20 || addr > 2<<30 || memsz > 1<<30 || filesz > memsz || off > size || filesz > size-off {
			return nil, fmt.Errorf("%w: segment of %#x bytes (%#x in the file at %#x) at %#x", ErrImage, memsz, filesz, off, addr)
		}
		for _, s := range p.segments {
			if addr < s.addr+s.size && s.addr < addr+filesz {
				return nil, fmt.Errorf("%w: segments overlap at %#x", ErrImage, addr)
			}
		}
		p.segments = append(p.segments, segment{addr, off, filesz})
		p.kernelEnd = max(p.kernelEnd, addr+memsz)
		entered = entered || entry >= addr && entry-addr < filesz
	}
	if !entered {
		return nil, fmt.Errorf("%w: entry point %#x is in no segment", ErrImage, entry)
	}
	return p, nil
}
