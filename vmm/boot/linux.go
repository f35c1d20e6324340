// SPDX-License-Identifier: BSD-2-Clause

package boot

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/skepvm/skep/vmm/guestmem"
	"github.com/skepvm/skep/vmm/hv"
)

// Linux boots a Linux kernel by the 64-bit protocol
// (Documentation/arch/x86/boot.rst): a bzImage whose xloadflags say
// XLF_KERNEL_64, or an uncompressed ELF vmlinux.
type Linux struct {
	// Kernel and Initrd are read with ReadAt at each boot. Their sizes come
	// from a method Size() int64 or from an *os.File. Initrd may be nil.
	Kernel, Initrd io.ReaderAt
	// Cmdline is the kernel's command line, without a terminating zero. Its
	// length is bounded by the kernel's own limit (2047 bytes for a usual one).
	Cmdline string
}

var _ Source = Linux{}

// What the loader puts below 1 MiB. The kernel has no use for any of it once it
// has made its own page tables.
const (
	zeroPage   = 0x7000
	pml4       = 0x9000
	pdpt       = 0xa000
	pageDirs   = 0xb000 // four: the first 4 GiB
	gdtAddr    = 0xf000
	setupAddr  = 0x10000 // setup_data
	bootStack  = 0x1fff0
	cmdlineMem = 0x20000
	cmdlineMax = 0x10000
	ebda       = 0x9fc00 // usable memory below 640 KiB ends here
)

// Offsets in the zero page, which are those in the first sectors of a bzImage
// (Documentation/arch/x86/zero-page.rst).
const (
	offRSDP        = 0x070
	offE820Count   = 0x1e8
	offHeader      = 0x1f1
	offSetupSects  = 0x1f1
	offVidMode     = 0x1fa
	offBootFlag    = 0x1fe
	offHeaderLen   = 0x201
	offMagic       = 0x202
	offVersion     = 0x206
	offLoader      = 0x210
	offLoadFlags   = 0x211
	offRamdisk     = 0x218
	offRamdiskSize = 0x21c
	offHeapEnd     = 0x224
	offCmdline     = 0x228
	offInitrdMax   = 0x22c
	offAlignment   = 0x230
	offRelocatable = 0x234
	offXLoadFlags  = 0x236
	offCmdlineSize = 0x238
	offSetupData   = 0x250
	offPrefAddress = 0x258
	offInitSize    = 0x260
	offHeaderEnd   = 0x290 // EDD signatures follow
	offE820        = 0x2d0

	bootFlag       = 0xaa55
	headerMagic    = 0x53726448 // HdrS
	minVersion     = 0x20c      // xloadflags
	loadedHigh     = 1 << 0
	xlfKernel64    = 1 << 0
	setupRNGSeed   = 9
	rngSeedLen     = 32
	defaultCmdline = 2047
	defaultInitrd  = 0x7fffffff
)

// linuxPlan is what is loaded where. It is made without touching guest memory.
type linuxPlan struct {
	header     []byte // setup header, from offHeader on; nil for an ELF kernel
	segments   []segment
	entry      uint64
	kernelEnd  uint64 // end of the memory that the kernel needs at first
	cmdlineMax uint64
	initrdMax  uint64
	initrdAddr uint64
	initrdSize uint64
}

// segment is a part of the kernel's file and where it goes. What memory it has
// beyond the file's part is zero already.
type segment struct {
	addr, off, size uint64
}

func (l Linux) plan(p Params) (*linuxPlan, error) {
	if l.Kernel == nil {
		return nil, fmt.Errorf("linux: %w: no kernel given", ErrImage)
	}
	size, err := sizeOf(l.Kernel)
	if err != nil {
		return nil, fmt.Errorf("linux: kernel: %w", err)
	}
	head := make([]byte, min(size, 4096))
	if err := readFull(l.Kernel, head, 0); err != nil {
		return nil, fmt.Errorf("linux: kernel: %w", err)
	}
	var lp *linuxPlan
	if len(head) >= 4 && string(head[:4]) == "\x7fELF" {
		lp, err = planELF(l.Kernel, head, uint64(size))
	} else {
		lp, err = planBzImage(head, uint64(size))
	}
	if err != nil {
		return nil, fmt.Errorf("linux: kernel: %w", err)
	}
	if lp.kernelEnd > p.LowMem {
		return nil, fmt.Errorf("linux: %w: the kernel needs %d MiB to begin with, the guest has %d MiB below the PCI hole",
			ErrMemory, lp.kernelEnd>>20+1, p.LowMem>>20)
	}
	if strings.IndexByte(l.Cmdline, 0) >= 0 {
		return nil, fmt.Errorf("linux: command line holds a zero byte")
	}
	if n := min(lp.cmdlineMax, cmdlineMax-1); uint64(len(l.Cmdline)) > n {
		return nil, fmt.Errorf("linux: command line is %d bytes long, this kernel takes %d", len(l.Cmdline), n)
	}
	if l.Initrd == nil {
		return lp, nil
	}
	n, err := sizeOf(l.Initrd)
	if err != nil {
		return nil, fmt.Errorf("linux: initrd: %w", err)
	}
	if n <= 0 {
		return nil, fmt.Errorf("linux: initrd: %w: it is empty", ErrImage)
	}
	// As high as possible: what lies below stays free for the kernel.
	top := min(p.LowMem, lp.initrdMax+1)
	lp.initrdSize = uint64(n)
	if lp.initrdSize > top || (top-lp.initrdSize)&^0xfff < lp.kernelEnd {
		return nil, fmt.Errorf("linux: %w: kernel and initrd (%d MiB) need more than the guest's %d MiB below the PCI hole",
			ErrMemory, n>>20, p.LowMem>>20)
	}
	lp.initrdAddr = (top - lp.initrdSize) &^ 0xfff
	return lp, nil
}

func planBzImage(h []byte, size uint64) (*linuxPlan, error) {
	if len(h) < offHeaderEnd {
		return nil, fmt.Errorf("%w: %d bytes are too short for a kernel", ErrImage, size)
	}
	le := binary.LittleEndian
	if le.Uint16(h[offBootFlag:]) != bootFlag || le.Uint32(h[offMagic:]) != headerMagic {
		return nil, fmt.Errorf("%w: neither a bzImage nor an ELF file", ErrImage)
	}
	if v := le.Uint16(h[offVersion:]); v < minVersion {
		return nil, fmt.Errorf("%w: boot protocol %d.%02d, at least 2.12 is needed", ErrImage, v>>8, v&0xff)
	}
	if le.Uint16(h[offXLoadFlags:])&xlfKernel64 == 0 || h[offLoadFlags]&loadedHigh == 0 {
		return nil, fmt.Errorf("%w: the kernel has no 64-bit entry point", ErrImage)
	}
	sects := uint64(h[offSetupSects])
	if sects == 0 {
		sects = 4
	}
	off := (sects + 1) * 512
	if off >= size || size-off <= 0x200 {
		return nil, fmt.Errorf("%w: truncated: %d bytes, of which %d are the setup code", ErrImage, size, off)
	}
	load, need := le.Uint64(h[offPrefAddress:]), uint64(le.Uint32(h[offInitSize:]))
	code := size - off
	need = max(need, code)
	if load < 1<<20 || load > 2<<30 || load%4096 != 0 {
		return nil, fmt.Errorf("%w: load address %#x", ErrImage, load)
	}
	end := offMagic + int(h[offHeaderLen])
	p := &linuxPlan{
		header:     h[offHeader:min(end, offHeaderEnd)],
		segments:   []segment{{load, off, code}},
		entry:      load + 0x200,
		kernelEnd:  load + need, // both are far below 2^63
		cmdlineMax: uint64(le.Uint32(h[offCmdlineSize:])),
		initrdMax:  uint64(le.Uint32(h[offInitrdMax:])),
	}
	return p, nil
}

// Check tells whether the kernel, the initrd and the command line are good and
// fit into the machine.
func (l Linux) Check(p Params) error {
	_, err := l.plan(p)
	return err
}

// Load puts kernel, initrd and boot parameters into memory.
func (l Linux) Load(mem *guestmem.Memory, p Params) (*hv.State, error) {
	lp, err := l.plan(p)
	if err != nil {
		return nil, err
	}
	for _, s := range lp.segments {
		if err := stream(mem, s.addr, l.Kernel, s.off, s.size); err != nil {
			return nil, fmt.Errorf("linux: load kernel: %w", err)
		}
	}
	if l.Initrd != nil {
		if err := stream(mem, lp.initrdAddr, l.Initrd, 0, lp.initrdSize); err != nil {
			return nil, fmt.Errorf("linux: load initrd: %w", err)
		}
	}
	zp, err := l.parameters(mem, lp, p)
	if err == nil {
		err = mem.WriteAt(zp, zeroPage)
	}
	if err == nil {
		err = mem.WriteAt([]byte(l.Cmdline+"\x00"), cmdlineMem)
	}
	if err == nil {
		err = identityMap(mem)
	}
	if err != nil {
		return nil, fmt.Errorf("linux: write boot parameters: %w", err)
	}
	return longMode(lp.entry), nil
}

// parameters builds the zero page.
func (l Linux) parameters(mem *guestmem.Memory, lp *linuxPlan, p Params) ([]byte, error) {
	le := binary.LittleEndian
	zp := make([]byte, 4096)
	if lp.header != nil {
		copy(zp[offHeader:], lp.header)
	} else {
		le.PutUint16(zp[offBootFlag:], bootFlag)
		le.PutUint32(zp[offMagic:], headerMagic)
		le.PutUint16(zp[offVersion:], 0x20f)
		le.PutUint32(zp[offAlignment:], 2<<20)
		zp[offLoadFlags] = loadedHigh
	}
	zp[offLoader] = 0xff // none that has a number
	le.PutUint16(zp[offVidMode:], 0xffff)
	le.PutUint32(zp[offCmdline:], cmdlineMem)
	le.PutUint32(zp[offCmdlineSize:], uint32(len(l.Cmdline)))
	le.PutUint32(zp[offRamdisk:], uint32(lp.initrdAddr)) // below 4 GiB, as planned
	le.PutUint32(zp[offRamdiskSize:], uint32(lp.initrdSize))
	le.PutUint64(zp[offRSDP:], p.RSDP)
	le.PutUint64(zp[offSetupData:], 0)
	if p.Rand != nil {
		d := make([]byte, 16+rngSeedLen) // next, type, length, the seed
		le.PutUint32(d[8:], setupRNGSeed)
		le.PutUint32(d[12:], rngSeedLen)
		if _, err := io.ReadFull(p.Rand, d[16:]); err != nil {
			return nil, fmt.Errorf("random seed: %w", err)
		}
		if err := mem.WriteAt(d, setupAddr); err != nil {
			return nil, err
		}
		le.PutUint64(zp[offSetupData:], setupAddr)
	}
	entries := memoryMap(p)
	if len(entries) > 128 {
		return nil, fmt.Errorf("memory map has %d entries, 128 fit", len(entries))
	}
	zp[offE820Count] = byte(len(entries))
	for i, e := range entries {
		b := zp[offE820+20*i:]
		le.PutUint64(b, e.Base)
		le.PutUint64(b[8:], e.Size)
		le.PutUint32(b[16:], e.Type)
	}
	return zp, nil
}
