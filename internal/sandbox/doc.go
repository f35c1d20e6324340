// SPDX-License-Identifier: BSD-2-Clause

// Package sandbox shuts a process in that has opened all that it needs, and
// keeps only the system calls by which it runs a guest.
//
// On Linux: an empty file system, network, IPC and process namespace, a user of
// its own, no capabilities, no new privileges, and a seccomp filter whose
// allow-list is written down in seccomp_linux.go, in force on all threads. On
// FreeBSD: capability mode (capsicum(4)), with rights, ioctls and fcntls limited
// on each descriptor that was handed over. The hypervisor's are bound by who
// opened them, before (vmm.Machine.Confine). The process becomes a user of its
// own there, too: capability mode permits fork(2), and what forbids it is the limit
// of that user's processes, which would not bind root.
//
// What a process that is broken into may use up is bounded by resource limits:
// descriptors, core files, locked memory, its address space, the size of a file, and
// as a user of its own its processes on FreeBSD and its threads on Linux. Package limits adds, from
// outside, a control group of its own on Linux and rctl(8) rules on FreeBSD, where
// the host has them.
//
// It may be imported by internal/worker and internal/limits. It imports nothing of
// skep.
package sandbox

// Options are what Enter needs to know.
type Options struct {
	// UID to become, also as the group; 0: stay who one is. Root only.
	UID uint32
	// FileSize is how large a file may become that is written to: a disk in a file
	// could otherwise fill the host's. It does not bind devices.
	FileSize int64
	// Files are descriptors that were handed over, by what may be done with
	// them from now on. FreeBSD only.
	Files map[Use][]uintptr
}

// Growth is how much more address space a process may take once it is shut in,
// in bytes. Go's runtime takes it 64 MiB at a time; a worker's whole heap is
// smaller than that.
const Growth = 512 << 20

const (
	// Threads of a worker: 16 vCPUs, the runtime's, and those that wait in the kernel
	// for disks, many times over.
	Threads = 512
	// Files that it may have open.
	Files = 512
)

// Use is what a descriptor is for.
type Use int

// The uses.
const (
	UseDisk   Use = iota // read and write anywhere, sync, punch holes
	UseRead              // read anywhere
	UseTap               // read and write frames
	UseListen            // accept
	UseLog               // write and truncate
	UseErr               // append to
	UseHold              // hold
)
