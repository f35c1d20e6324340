// SPDX-License-Identifier: BSD-2-Clause

// Package abi holds the structures and numbers of FreeBSD's /dev/vmmctl and
// /dev/vmm/NAME (machine/vmm_dev.h and machine/vmm.h) as Go has them. It
// builds on every system, so that its tests hold every size, offset and number
// against the table in testdata everywhere.
//
// Imported by vmm/hv/bhyve alone. It imports nothing of skep.
package abi
