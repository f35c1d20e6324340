// SPDX-License-Identifier: BSD-2-Clause

package boot

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/skepvm/skep/vmm/guestmem"
	"github.com/skepvm/skep/vmm/hv"
)

// FreeBSD boots a FreeBSD/amd64 kernel directly, as its loader would: kernel and
// modules are linked by the kernel itself, its environment and the list of what
// was loaded lie behind them in memory (sys/linker.h, stand/common/modinfo.c).
//
// Everything must fit into the first GiB of the guest's memory.
type FreeBSD struct {
	// Kernel is /boot/kernel/kernel, read with ReadAt at each boot. Its size
	// comes from a method Size() int64 or from an *os.File; so do those of the
	// modules.
	Kernel io.ReaderAt
	// Modules are loaded with the kernel, in this order. The kernel sorts out
	// what depends on what; a module that something else needs must be there.
	Modules []FreeBSDModule
	// Env is the kernel's environment (kenv(1)): tunables, hints, and what
	// decides about the console and the root file system, such as
	// "vfs.root.mountfrom=ufs:/dev/vtbd0p2". It is laid over the defaults, which
	// are a console on COM1; an empty value removes one.
	Env map[string]string
	// Verbose and SingleUser are the loader's boot -v and -s.
	Verbose, SingleUser bool
}

// FreeBSDModule is a file that the kernel finds loaded.
type FreeBSDModule struct {
	// Name is the path that the kernel calls it by: /boot/kernel/virtio_blk.ko.
	Name string
	// Type is what it is: "" means a kernel module (an object file or a shared
	// object); "mfs_root" and "md_image" are images of a memory disk (md0, …).
	Type string
	File io.ReaderAt
}

var _ Source = FreeBSD{}

const (
	// What the loader puts below 1 MiB (as bhyve's does, see amd64_loadaddr in
	// the kernel's machdep.c for what it asks of the page tables).
	fbsdStack = 0x1000
	fbsdPML4  = 0x2000
	fbsdPDPT  = 0x3000
	fbsdPD    = 0x4000
	fbsdGDT   = 0x5000
	fbsdPages = 0x6000 // end of them

	fbsdKernBase = 0xffffffff80000000
	fbsdLoadMin  = 1 << 20
	fbsdLoadMax  = 1 << 30 // the page tables map no more
	// fbsdRoom is what the kernel takes behind all that was loaded before it
	// manages memory: page tables, stack, per-CPU data, and 2 MiB that it skips.
	fbsdRoom = 8 << 20

	maxFreeBSDModules = 256
	maxFreeBSDEnv     = 64 << 10 // bytes
	maxFreeBSDName    = 1023
	fbsdEntropy       = 2048 // bytes, as loader.efi gives

	// boothowto (sys/reboot.h).
	rbSingle, rbVerbose, rbSerial = 0x2, 0x800, 0x1000
)

// fbsdEnv is the environment that a machine of ours needs to be heard and found.
var fbsdEnv = map[string]string{
	"console":                       "comconsole",
	"comconsole_speed":              "115200",
	"boot_serial":                   "YES",
	"kernelname":                    "/boot/kernel/kernel",
	"kernel":                        "kernel",
	"module_path":                   "/boot/kernel;/boot/modules",
	"hint.uart.0.at":                "isa",
	"hint.uart.0.port":              "0x3F8",
	"hint.uart.0.irq":               "4",
	"hint.uart.0.flags":             "0x10",
	"hint.atrtc.0.at":               "isa",
	"hint.atrtc.0.port":             "0x70",
	"hint.atrtc.0.irq":              "8",
	"hint.attimer.0.at":             "isa",
	"hint.attimer.0.port":           "0x40",
	"hint.attimer.0.irq":            "0",
	"hint.acpi_throttle.0.disabled": "1",
	"hint.p4tcc.0.disabled":         "1",
}

// fbsdFile is something to be loaded, and what the kernel is told of it.
type fbsdFile struct {
	name, kind string
	addr, size uint64 // guest-physical
	parts      []fbsdPart
	meta       []fbsdRecord
}

// fbsdPart is a part of a file and where it goes.
type fbsdPart struct {
	src io.ReaderAt
	seg segment
}

// fbsdPlan is what is loaded where. It is made without touching guest memory.
type fbsdPlan struct {
	entry   uint64
	files   []fbsdFile // the kernel first
	env     []byte
	envAddr uint64
	modAddr uint64
	end     uint64
}

// Check implements Source.
func (f FreeBSD) Check(p Params) error {
	_, err := f.plan(p)
	return err
}

func pageUp(v uint64) uint64 { return (v + 0xfff) &^ 0xfff }

func (f FreeBSD) plan(p Params) (*fbsdPlan, error) {
	if f.Kernel == nil {
		return nil, fmt.Errorf("freebsd: %w: no kernel given", ErrImage)
	}
	if len(f.Modules) > maxFreeBSDModules {
		return nil, fmt.Errorf("freebsd: %d modules: at most %d", len(f.Modules), maxFreeBSDModules)
	}
	env, err := f.environment(p)
	if err != nil {
		return nil, fmt.Errorf("freebsd: %w", err)
	}
	limit := min(p.LowMem, fbsdLoadMax)
	b := &fbsdPlan{env: env}
	kernel, entry, err := planFreeBSDKernel(f.Kernel, limit)
	if err != nil {
		return nil, fmt.Errorf("freebsd: kernel: %w", err)
	}
	b.entry, b.files = entry, []fbsdFile{kernel}
	at := pageUp(kernel.addr + kernel.size)
	names := map[string]bool{kernel.name: true}
	for i, m := range f.Modules {
		if m.Name == "" || len(m.Name) > maxFreeBSDName || strings.IndexByte(m.Name, 0) >= 0 || names[m.Name] {
			return nil, fmt.Errorf("freebsd: module %d: bad or repeated name %q", i, m.Name)
		}
		names[m.Name] = true
		x, err := planFreeBSDModule(m, at, limit)
		if err != nil {
			return nil, fmt.Errorf("freebsd: module %s: %w", m.Name, err)
		}
		b.files = append(b.files, x)
		at = pageUp(x.addr + x.size)
	}
	if p.Rand != nil { // the kernel waits for randomness otherwise
		b.files = append(b.files, fbsdFile{name: "skep_entropy", kind: "boot_entropy_platform", addr: at, size: fbsdEntropy})
		at += pageUp(fbsdEntropy)
	}
	b.envAddr = at
	b.modAddr = pageUp(b.envAddr + uint64(len(env)))
	// The records' lengths do not depend on what is still unknown.
	b.end = pageUp(b.modAddr + uint64(len(b.records(f.howto(), p))))
	if b.end+fbsdRoom > limit {
		return nil, fmt.Errorf("freebsd: %w: kernel and modules end at %d MiB, need %d MiB more, and the guest has %d MiB for them",
			ErrMemory, b.end>>20, fbsdRoom>>20, limit>>20)
	}
	return b, nil
}

func (f FreeBSD) howto() uint32 {
	h := uint32(rbSerial)
	if f.Verbose {
		h |= rbVerbose
	}
	if f.SingleUser {
		h |= rbSingle
	}
	return h
}

// environment encodes the defaults and what is laid over them, sorted.
func (f FreeBSD) environment(p Params) ([]byte, error) {
	env := maps.Clone(fbsdEnv)
	if p.RSDP != 0 {
		env["acpi.rsdp"] = fmt.Sprintf("%#x", p.RSDP)
		env["hint.acpi.0.rsdp"] = env["acpi.rsdp"]
	}
	for k, v := range f.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.IndexByte(v, 0) >= 0 {
			return nil, fmt.Errorf("environment: bad variable %q=%q", k, v)
		}
		if env[k] = v; v == "" {
			delete(env, k)
		}
	}
	var b []byte
	for _, k := range slices.Sorted(maps.Keys(env)) {
		b = append(b, k+"="+env[k]+"\x00"...)
	}
	if b = append(b, 0); len(b) > maxFreeBSDEnv {
		return nil, fmt.Errorf("environment of %d bytes: at most %d", len(b), maxFreeBSDEnv)
	}
	return b, nil
}

// Load implements Source.
func (f FreeBSD) Load(mem *guestmem.Memory, p Params) (*hv.State, error) {
	b, err := f.plan(p)
	if err != nil {
		return nil, err
	}
	for _, x := range b.files {
		for _, part := range x.parts {
			if err := stream(mem, part.seg.addr, part.src, part.seg.off, part.seg.size); err != nil {
				return nil, fmt.Errorf("freebsd: load %s: %w", x.name, err)
			}
		}
		if x.kind == "boot_entropy_platform" {
			seed := make([]byte, fbsdEntropy)
			if _, err := io.ReadFull(p.Rand, seed); err != nil {
				return nil, fmt.Errorf("freebsd: random seed: %w", err)
			}
			if err := mem.WriteAt(seed, x.addr); err != nil {
				return nil, fmt.Errorf("freebsd: random seed: %w", err)
			}
		}
	}
	if err := mem.WriteAt(b.env, b.envAddr); err != nil {
		return nil, fmt.Errorf("freebsd: environment: %w", err)
	}
	if err := mem.WriteAt(b.records(f.howto(), p), b.modAddr); err != nil {
		return nil, fmt.Errorf("freebsd: metadata: %w", err)
	}
	if err := b.firstPages(mem); err != nil {
		return nil, fmt.Errorf("freebsd: %w", err)
	}
	data := hv.Segment{Selector: 0x10, Limit: 0xffffffff, Access: accessData}
	return &hv.State{
		RIP: b.entry, RSP: fbsdStack, RFLAGS: 2,
		CR0: cr0PE | cr0ET | cr0NE | cr0PG, CR3: fbsdPML4, CR4: cr4PAE, EFER: eferLME | eferLMA,
		CS: hv.Segment{Selector: 8, Limit: 0xffffffff, Access: accessCode64},
		DS: data, ES: data, FS: data, GS: data, SS: data,
		TR:   hv.Segment{Limit: 0xffff, Access: accessTSS},
		LDTR: hv.Segment{Access: hv.Unusable},
		GDTR: hv.Table{Base: fbsdGDT, Limit: 3*8 - 1},
	}, nil
}

// firstPages writes what the kernel begins on: a stack with its two arguments,
// page tables in which every GiB of the address space is the first, and a
// descriptor table.
func (b *fbsdPlan) firstPages(mem *guestmem.Memory) error {
	m, err := mem.Slice(fbsdStack, fbsdPages-fbsdStack)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	at := func(gpa uint64) []byte { return m[gpa-fbsdStack:] }
	le.PutUint32(at(fbsdStack), 0) // where the kernel will not return to
	le.PutUint32(at(fbsdStack+4), uint32(b.modAddr))
	le.PutUint32(at(fbsdStack+8), uint32(b.end))
	for i := range uint64(512) {
		le.PutUint64(at(fbsdPML4+8*i), fbsdPDPT|pageTable)
		le.PutUint64(at(fbsdPDPT+8*i), fbsdPD|pageTable)
		le.PutUint64(at(fbsdPD+8*i), i<<21|pageLarge)
	}
	le.PutUint64(at(fbsdGDT), 0)
	le.PutUint64(at(fbsdGDT+8), 0x00af9b000000ffff)
	le.PutUint64(at(fbsdGDT+16), 0x00cf93000000ffff)
	return nil
}
