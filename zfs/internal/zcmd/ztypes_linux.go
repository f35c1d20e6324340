// SPDX-License-Identifier: BSD-2-Clause

package zcmd

// Cmd is zfs_cmd_t with Linux's path length of 4096.
type Cmd = layout[[4096]byte, [8192]byte]

const (
	firstRequest = 0x5a00 // ZFS_IOC_FIRST, 'Z' << 8
	sigPerThread = 33     // the second real-time signal: sigPerThreadSyscall of the Go runtime
)
