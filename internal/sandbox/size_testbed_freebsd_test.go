// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package sandbox

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestAddressSpace holds kiSize, which is in no table, against the kernel: what is
// mapped is counted there.
func TestAddressSpace(t *testing.T) {
	const size = 64<<20 + 12<<12
	before, err := addressSpace()
	if err != nil {
		t.Fatal(err)
	}
	// None of it is used: it is the size that counts.
	b, err := unix.Mmap(-1, 0, size, unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	after, err := addressSpace()
	if err != nil {
		t.Fatal(err)
	}
	if before < 1<<20 || after-before < size || after-before > size+1<<20 {
		t.Errorf("%d bytes mapped, and %d after %d more", before, after, size)
	}
}
