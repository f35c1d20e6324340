// SPDX-License-Identifier: BSD-2-Clause

//go:build linux

// Package bed boots a testbed under QEMU, speaks with the agent in it and
// serves it to other processes.
//
// Nothing of a running testbed has a name in the file system: disks are
// unlinked files, the control port is a socket pair, the address under which
// others find it is an abstract socket. QEMU dies with the process that
// started it. So whatever way that process ends, nothing is left.
//
// It is imported by cmd/skep-testbed alone.
package bed
