// SPDX-License-Identifier: BSD-2-Clause

// Package hv is the hypervisor contract: what a backend (hv/kvm on Linux,
// hv/bhyve on FreeBSD) offers to package vmm, and the small Handler that a
// backend calls up into. A backend knows nothing of devices; devices know
// nothing of a backend.
//
// The contract is the intersection of what /dev/kvm and /dev/vmm do well:
//
//   - the in-kernel interrupt controllers (local APIC, I/O APIC, 8259) are
//     always used, and so is the kernel's HLT: an idle vCPU sleeps there;
//   - memory is given out by the backend (bhyve allocates it in the kernel);
//   - port and memory-mapped accesses are answered by a Handler inside Run, so
//     that the hot path allocates nothing; every other exit is a value of the
//     closed set Exit.
//
// It may be imported by everything below vmm. It imports nothing of skep.
package hv
