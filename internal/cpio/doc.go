// SPDX-License-Identifier: BSD-2-Clause

// Package cpio writes archives in the "newc" format (cpio(5), SVR4 without
// checksums), the one that the Linux kernel unpacks as an initramfs.
//
// It imports the standard library alone and may be imported by anything that
// builds a guest. It does not read archives.
package cpio
