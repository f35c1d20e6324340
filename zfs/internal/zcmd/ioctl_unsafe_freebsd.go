// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"runtime"
	"syscall"
	"unsafe"
)

// ioctl sends cmd; what its pointer fields refer to is pinned by the caller.
func ioctl(fd uintptr, op Op, cmd *Cmd) syscall.Errno {
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(cmd)
	p := &iocparm{Version: iocparmOpenZF, Cmd: uint64(uintptr(unsafe.Pointer(cmd))), Size: uint64(unsafe.Sizeof(*cmd))}
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, requestBase|uintptr(op), uintptr(unsafe.Pointer(p)))
	runtime.KeepAlive(cmd)
	return errno
}
