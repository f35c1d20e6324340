// SPDX-License-Identifier: BSD-2-Clause

// Package virtiotest is a guest for tests: a machine without a hypervisor, and a
// driver that finds a virtio device by its PCI capabilities and drives it
// through configuration space, BARs, rings and interrupts as a guest would,
// well-behaved or not. Devices are tested through it alone.
//
// It may be imported by tests only.
package virtiotest
