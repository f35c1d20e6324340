// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"runtime"
	"syscall"
	"unsafe"
)

// ioctl sends cmd; what its pointer fields refer to is pinned by the caller.
func ioctl(fd uintptr, op Op, cmd *Cmd) syscall.Errno {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, firstRequest+uintptr(op), uintptr(unsafe.Pointer(cmd)))
	runtime.KeepAlive(cmd)
	return errno
}
