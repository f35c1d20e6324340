// SPDX-License-Identifier: BSD-2-Clause

package hv

import (
	"errors"
	"io"
)

// Errors of a backend. Each is wrapped with what was tried and on what.
var (
	// ErrUnavailable: this host has no usable hypervisor (no device node, no
	// module, no hardware support). The wrapping text says which, and the cure.
	ErrUnavailable = errors.New("no usable hypervisor")
	// ErrPermission: the hypervisor is there but may not be used by this process.
	ErrPermission = errors.New("no permission to use the hypervisor")
	// ErrExists: a machine of that name exists already (bhyve names machines).
	ErrExists = errors.New("virtual machine exists")
	// ErrLimit: the host's limit of virtual machines, of vCPUs, or of descriptors
	// for them is reached. The wrapping text says which, and where it is set if it
	// can be.
	ErrLimit = errors.New("hypervisor limit reached")
	// ErrNoMemory: the host has no memory for the machine.
	ErrNoMemory = errors.New("no memory for a virtual machine")
	// ErrClosed: the machine has been closed.
	ErrClosed = errors.New("virtual machine closed")
)

// MaxVCPUs is the largest number of vCPUs that skep gives to a machine.
const MaxVCPUs = 16

// Config is what a backend must know before it makes a machine.
type Config struct {
	// Name names the machine in the kernel where it has names (bhyve: at most
	// 229 bytes of [a-zA-Z0-9_.-]); KVM ignores it.
	Name string
	// VCPUs is the number of virtual processors, 1..MaxVCPUs. The APIC id of a
	// vCPU is its index.
	VCPUs int
	// Topology is reported to the guest through CPUID. The zero value means one
	// socket of VCPUs single-threaded cores.
	Topology Topology
}

// Topology is the shape of the processors: Sockets*Cores*Threads == VCPUs.
type Topology struct{ Sockets, Cores, Threads int }

// MemoryKind says what a range of guest-physical memory is.
type MemoryKind uint8

// The kinds of guest memory.
const (
	RAM MemoryKind = iota // ordinary memory: low (below the hole) and high (from 4 GiB)
	ROM                   // firmware: the guest may read and execute, not write
)

// Region is one range of guest-physical memory. Base and Size are multiples of
// 4096 bytes.
type Region struct {
	Base uint64 // guest-physical address
	Size uint64 // bytes
	Kind MemoryKind
}

// Backend makes machines. Each backend package has a function Open that
// returns one, or an error that wraps ErrUnavailable or ErrPermission.
type Backend interface {
	// Name is "kvm" or "bhyve".
	Name() string
	// NewVM makes a machine with its in-kernel interrupt controllers and its
	// vCPUs (none of them running). On error nothing is left in the kernel.
	NewVM(Config) (VM, error)
	io.Closer
}

// VM is one machine in the kernel. Its methods may be called from any
// goroutine; those that say so need every vCPU outside Run.
type VM interface {
	// MapMemory makes zeroed guest memory and maps it both into the guest and
	// into this process; the slice is valid until Close. All regions are mapped
	// once, before the first Run.
	MapMemory(regions []Region) ([][]byte, error)

	// VCPU returns vCPU number id, 0 <= id < Config.VCPUs.
	VCPU(id int) VCPU

	// SetIRQ drives an interrupt line of the in-kernel controllers. Lines 0-15
	// are wired to both the 8259s and the I/O APIC (as ISA lines), 16-23 to
	// the I/O APIC alone. A level-triggered line stays as it was set.
	SetIRQ(line int, level bool) error

	// NewMSI makes a message-signalled interrupt source with no message set.
	NewMSI() (MSI, error)

	// NewDoorbell makes guest writes of size bytes (1, 2, 4 or 8; 0 means any
	// size) at a memory-mapped address wake a goroutine, without an exit to the
	// Handler where the kernel can do that. Where it cannot, and where there is no
	// doorbell to be had (an error), the same write reaches Handler.MMIOWrite: a
	// caller must serve both ways, and call Ring there.
	NewDoorbell(addr uint64, size int) (Doorbell, error)

	// Reset brings the kernel's part of the machine (vCPUs, interrupt
	// controllers, timers) to its power-on state; memory, MSIs and doorbells
	// stay. Every vCPU must be outside Run.
	Reset() error

	// Pause is called when all vCPUs have left Run, before the machine rests;
	// Resume before they enter again. Time goes on for a machine that rests:
	// after Resume the guest's clocks agree with the host's, and where the
	// guest can be told of it (kvmclock) its watchdogs do not bark.
	Pause() error
	Resume() error

	// Close takes the machine out of the kernel. Every vCPU must be outside
	// Run. It is safe to call twice.
	io.Closer
}

// MemoryZeroer is a VM that can clear its RAM without touching every page (the
// pages are given back to the host). Every vCPU must be outside Run; maps stay
// valid. A VM without it is cleared page by page.
type MemoryZeroer interface{ ZeroMemory() error }

// HPETer is a VM whose kernel gives the guest a high precision event timer, at
// 0xfed00000; the low half of its capability register goes into the guest's tables.
// A guest that does not trust its TSC goes by it: a machine may rest longer than the
// power management timer can count.
type HPETer interface{ HPET() (capabilities uint32) }

// Confiner is a VM or a Backend that can bind its process to the machines that it
// has, for the day that the process is broken into. Memory is mapped. From then on
// a VM's descriptors do no more than its methods need, its Close may leave it in
// the kernel for whoever started the process to take out, and a Backend makes and
// finds no machine. A Backend that is none is closed instead.
type Confiner interface{ Confine() error }

// MSI is one message-signalled interrupt source. Signal is cheap (one write to
// an eventfd on KVM) and may be called from any goroutine.
type MSI interface {
	// Set gives the source its message; the next Signal sends that.
	Set(addr uint64, data uint32) error
	// Signal sends the message. Without a message it does nothing.
	Signal() error
	Close() error
}

// Doorbell receives guest writes to one address.
type Doorbell interface {
	// Wait blocks until the guest has written since the last Wait, or returns
	// ErrClosed after Close. Several writes may come as one.
	Wait() error
	// Ring wakes Wait as if the guest had written. Used to make a queue look
	// again after a reset or resume.
	Ring()
	Close() error
}

// Handler answers the accesses of a running vCPU. Its methods run on the vCPU's
// own thread, for several vCPUs at once; they must not block for long. size is
// 1, 2, 4 (ports) or 1, 2, 4, 8 (memory).
type Handler interface {
	PortRead(port uint16, size int) uint32
	PortWrite(port uint16, size int, v uint32)
	MMIORead(gpa uint64, size int) uint64
	MMIOWrite(gpa uint64, size int, v uint64)
}

// VCPU is one virtual processor. Run and the register methods must be called
// from one goroutine locked to its thread, the vCPU's own; Kick from any.
type VCPU interface {
	ID() int

	// Run enters the guest and stays until an exit that the Handler cannot
	// answer. After a Kick it returns Interrupted.
	Run(Handler) (Exit, error)

	// Kick makes a Run that is in progress, or else the next one, return
	// Interrupted soon. It does not wait, and does no harm while the VM is being
	// closed or afterwards.
	Kick()

	// State reads the architectural state; SetState writes it. The boot vCPU
	// (0) gets its state before the first Run. The others wait inside Run for
	// INIT-SIPI from the guest and need none.
	State() (State, error)
	SetState(*State) error
}
