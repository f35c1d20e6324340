// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && freebsd

package vmm_test

import (
	"encoding/binary"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm/hv/bhyve"
)

// addressSpace is how many bytes of it this process has mapped: ki_size of
// struct kinfo_proc, behind ki_pid and others.
func addressSpace(t *testing.T) uint64 {
	const sizeof, pid, size = 1088, 72, 256
	b, err := unix.SysctlRaw("kern.proc.pid", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != sizeof || binary.LittleEndian.Uint32(b[pid:]) != uint32(os.Getpid()) {
		t.Fatalf("struct kinfo_proc has %d bytes and another layout", len(b))
	}
	return binary.LittleEndian.Uint64(b[size:])
}

// kernelMachines counts ours: the kernel keeps one until it is told not to.
func kernelMachines(t *testing.T) int {
	b, err := bhyve.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	names, err := b.Machines()
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}
