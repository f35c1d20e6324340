// SPDX-License-Identifier: BSD-2-Clause

// Package pci is the machine's PCI root complex: configuration space through
// ports 0xcf8/0xcfc and through ECAM, base address registers that guest or
// firmware may move, MSI-X, INTx lines, and the host bridge.
//
// A device builds a Function (identity, BARs, capabilities) and implements
// Device; Host.Attach puts it into a slot. Everything a guest can write here is
// checked here: a device sees only offsets inside its own BARs.
//
// Locks: the host's lock is taken for every configuration access and is held
// while a device's hooks run; so a device must not touch configuration space
// while it holds a lock that its hooks take. Raising interrupts takes none of
// these locks.
//
// The root complex has no goroutine: Reset, on the machine's, forgets the
// configuration address, and each device's own Reset brings its configuration space
// back to power-on. Start, Pause, Resume and Halt find nothing to do here.
//
// It may be imported by virtio, chipset, acpi and vmm. It imports bus and hv.
package pci
