// SPDX-License-Identifier: BSD-2-Clause

// Package kmod finds Linux kernel modules in a directory, orders them by what
// they depend on (the .modinfo section of each, as modinfo(8) shows it) and
// reads them, plain or compressed with xz.
//
// It is imported by skep-testbed's other packages and imports none of them.
package kmod
