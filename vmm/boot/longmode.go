// SPDX-License-Identifier: BSD-2-Clause

package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/skepvm/skep/vmm/guestmem"
	"github.com/skepvm/skep/vmm/hv"
)

// Bits of control registers and descriptors (AMD APM vol. 2).
const (
	cr0PE, cr0ET, cr0NE, cr0PG = 1 << 0, 1 << 4, 1 << 5, 1 << 31
	cr4PAE                     = 1 << 5
	eferLME, eferLMA           = 1 << 8, 1 << 10
	pageTable                  = 3 // present, writable
	pageLarge                  = 0x83

	accessCode64 = 0xa09b // G, L, P, S, execute/read, accessed
	accessData   = 0xc093 // G, D/B, P, S, read/write, accessed
	accessTSS    = 0x008b
)

// identityMap maps the first 4 GiB to themselves by 2 MiB pages and writes the
// descriptor table that the 64-bit protocol asks for.
func identityMap(mem *guestmem.Memory) error {
	b, err := mem.Slice(pml4, gdtAddr+0x1000-pml4)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	le.PutUint64(b, pdpt|pageTable)
	for i := range uint64(4) {
		le.PutUint64(b[pdpt-pml4+8*i:], pageDirs+i<<12|pageTable)
	}
	for i := range uint64(2048) {
		le.PutUint64(b[pageDirs-pml4+8*i:], i<<21|pageLarge)
	}
	g := b[gdtAddr-pml4:]
	le.PutUint64(g[0x10:], 0x00af9b000000ffff)
	le.PutUint64(g[0x18:], 0x00cf93000000ffff)
	le.PutUint64(g[0x20:], 0x00008b000000ffff)
	return nil
}

// longMode is the state in which the 64-bit protocol enters a kernel.
func longMode(entry uint64) *hv.State {
	data := hv.Segment{Selector: 0x18, Limit: 0xffffffff, Access: accessData}
	return &hv.State{
		RIP: entry, RSI: zeroPage, RSP: bootStack, RBP: bootStack, RFLAGS: 2,
		CR0: cr0PE | cr0ET | cr0NE | cr0PG, CR3: pml4, CR4: cr4PAE, EFER: eferLME | eferLMA,
		CS: hv.Segment{Selector: 0x10, Limit: 0xffffffff, Access: accessCode64},
		DS: data, ES: data, FS: data, GS: data, SS: data,
		TR:   hv.Segment{Selector: 0x20, Limit: 0xffff, Access: accessTSS},
		LDTR: hv.Segment{Access: hv.Unusable},
		GDTR: hv.Table{Base: gdtAddr, Limit: 0x27},
	}
}

// stream reads a part of a file straight into guest memory.
func stream(mem *guestmem.Memory, gpa uint64, r io.ReaderAt, off, n uint64) error {
	const piece = 64 << 20 // so that no single read is unbounded
	for n > 0 {
		k := min(n, piece)
		b, err := mem.Slice(gpa, k)
		if err != nil {
			return err
		}
		if err := readFull(r, b, int64(off)); err != nil {
			return err
		}
		gpa, off, n = gpa+k, off+k, n-k
	}
	return nil
}

// readFull reads all of b at off; a file that has become shorter is a bad image.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: truncated: %d of %d bytes at offset %d", ErrImage, n, len(b), off)
	}
	return fmt.Errorf("read %d bytes at offset %d: %w", len(b), off, err)
}
