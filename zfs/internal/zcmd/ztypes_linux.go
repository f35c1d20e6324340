// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"runtime"
	"syscall"
	"unsafe"
)

// Cmd is zfs_cmd_t with Linux's path length of 4096.
type Cmd = layout[[4096]byte, [8192]byte]

const firstRequest = 0x5a00 // ZFS_IOC_FIRST, 'Z' << 8

// ioctl sends cmd; what its pointer fields refer to is pinned by the caller.
func ioctl(fd uintptr, op Op, cmd *Cmd) syscall.Errno {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, firstRequest+uintptr(op), uintptr(unsafe.Pointer(cmd)))
	runtime.KeepAlive(cmd)
	return errno
}
