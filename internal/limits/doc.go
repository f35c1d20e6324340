// SPDX-License-Identifier: BSD-2-Clause

// Package limits bounds from outside what a worker may take of its host: memory,
// threads, processors. What a process can bound by itself (package sandbox, by
// setrlimit(2)) leaves out what the kernel holds for it, as pages of files, page
// tables, pipes and sockets, and does not bound processors at all.
//
// On Linux a worker is born in a control group (cgroup v2) of its own, with
// memory.max, pids.max, cpu.max and cpu.weight:
//
//	GROUP/skep-daemon        the daemon: no group with limits below it may hold processes
//	GROUP/skep-machines/ID   a worker
//
// GROUP is what the daemon was given. Where systemd runs, that is its unit's, if the
// unit has Delegate=yes and DelegateSubgroup=skep-daemon: the latter, of systemd 254
// and later, starts the daemon in its place. One that moved there by itself systemd
// could not start again while machines run, for what it starts it puts in GROUP
// first; so on an older systemd there are no groups. Without systemd the daemon moves
// itself, if it is alone in its group.
//
// On FreeBSD a worker has rctl(8) rules for its process, with which they go:
// memoryuse, nthr, openfiles, pcpu. There must be kern.racct.enable=1 in loader.conf(5).
//
// What of it a host lacks Open says; a machine runs all the same.
//
// It may be imported by package skep only. Of skep it imports package sandbox, for
// the numbers.
package limits

import "github.com/skepvm/skep/internal/sandbox"

// Bounds are what a worker may take, told by its guest.
type Bounds struct {
	CPUs   int
	Memory int64 // in bytes
}

// memory is the guest's, two page tables for it (the processor's and the guest's)
// of 8 bytes a page each, and what the worker's address space may grow by.
func (b Bounds) memory() int64 { return b.Memory + b.Memory/4096*16 + sandbox.Growth }
