// SPDX-License-Identifier: BSD-2-Clause

// Package boot puts an operating system into guest memory and says in which
// state the boot processor begins: Linux by its 64-bit boot protocol, FreeBSD
// by the records that its loader would have left.
//
// Images are hostile input: every length and offset in them is checked before
// it is used, and contents are streamed straight into guest memory.
//
// It may be imported by vmm and by those that configure a machine. It imports
// guestmem and hv, never a device or a backend.
package boot
