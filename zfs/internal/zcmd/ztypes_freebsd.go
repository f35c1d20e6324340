// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"runtime"
	"syscall"
	"unsafe"
)

// Cmd is zfs_cmd_t with FreeBSD's path length of 1024.
type Cmd = layout[[1024]byte, [2048]byte]

// iocparm is zfs_iocparm_t, what the ioctl itself carries.
type iocparm struct {
	Version uint32
	_       uint32
	Cmd     uint64
	Size    uint64
}

const (
	requestBase   = 0xc0185a00 // _IOWR('Z', nr, struct zfs_iocparm)
	iocparmOpenZF = 15         // ZFS_IOCVER_OZFS, sysctl vfs.zfs.version.ioctl
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
