// SPDX-License-Identifier: BSD-2-Clause

// Package vmm is one guest: a configuration in, a running machine out.
//
//	m, err := vmm.New(vmm.Config{CPUs: 1, Memory: 128 << 20,
//		Boot:   boot.Linux{Kernel: k, Initrd: i, Cmdline: "console=ttyS0"},
//		Serial: os.Stdout})
//	end, err := m.Run(ctx)
//	m.Close()
//
// It picks the hypervisor's backend, lays out memory, and assembles the chipset,
// the PCI devices and the ACPI tables. It may be imported by package skep and by
// any program; it must not import a room beside it (zfs, netif, image, …).
//
// # What is opened when
//
// New opens everything that a machine ever needs: the hypervisor, guest memory,
// eventfds, and the runtime's poller. Files, taps and terminals are handed in
// open by the caller. After New nothing opens a file, a socket or a process: a
// worker enters its sandbox between New and Run.
//
// # A machine's life
//
//	Created --Run--> Running <--Pause/Resume--> Paused
//	   |                |                          |
//	   +----------------+--------Kill, end---------+--> Ended --Close--> (gone)
//
// One goroutine, the one that called Run, owns the machine: every change of
// state happens on it, one after the other. Pause, Resume, Reset, PowerButton
// and Kill may be called from any goroutine; they hand a request over and wait
// for its end (Kill does not wait). Each vCPU has a goroutine of its own, locked
// to a thread. Devices have theirs, which they start and wait for themselves.
//
// # The process of a machine
//
// To Go's scheduler a vCPU in the guest is a goroutine in a system call. While
// none of GOMAXPROCS is idle, the runtime's monitor looks around every 20 µs, and
// where processors are few each look takes a vCPU out of the guest: a machine
// starts in twice the time. Have GOMAXPROCS at least two more than vCPUs, as
// the worker has.
//
// # The contract of a device
//
// The machine calls a device's methods from its own goroutine only, never
// two at once, and in this order:
//
//	(Start (Pause (Reset)? Resume)* Pause?)? Halt Close
//
//	Start   once. The device begins to work; vCPUs are not running yet.
//	        Devices start in the order in which they were added.
//	Pause   every vCPU is outside the guest. The device finishes or parks what
//	        it has in flight, and when Pause returns it neither touches guest
//	        memory nor raises an interrupt. Host side input (tap, console) waits
//	        in the host. Devices pause in the order in which they were added.
//	Reset   only while paused. The device takes its power-on state; guest memory
//	        is zeroed afterwards. What the host side has buffered stays.
//	Resume  vCPUs are still outside. The device works on; a notification that
//	        came while it rested is looked at now. Reverse order.
//	Halt    vCPUs will never run again. All of the device's goroutines have ended
//	        and what the guest wrote has left the process when it returns; host
//	        side input that waits has failed. It comes whether or not the device
//	        is paused or was ever started, and must not fail to return. Reverse
//	        order.
//	Close   (if the device has it) the device gives back what it holds. Reverse
//	        order.
//
// Register accesses come from vCPU threads, several at once, only between Start
// and Pause and between Resume and Pause. A device never waits for a vCPU.
package vmm
