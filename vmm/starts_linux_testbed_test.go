// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && linux

package vmm_test

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// addressSpace is how many bytes of it this process has mapped.
func addressSpace(t *testing.T) uint64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "VmSize:")
	n, err := strconv.ParseUint(strings.Fields(after + " none")[0], 10, 64)
	if err != nil {
		t.Fatalf("VmSize: %v", err)
	}
	return n << 10
}

// kernelMachines counts what keeps a machine in the kernel without a descriptor:
// the pages that vCPUs share with this process.
func kernelMachines(t *testing.T) int {
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "anon_inode:kvm")
}
