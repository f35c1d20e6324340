// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// jailSet makes a jail of parameters that are strings or, where empty, mere presence.
func jailSet(params [][2]string) (jid int, err error) {
	const create = 1 // JAIL_CREATE
	var pin runtime.Pinner
	defer pin.Unpin()
	var iov []unix.Iovec
	add := func(s string) {
		b := append([]byte(s), 0)
		v := unix.Iovec{Base: unsafe.SliceData(b)}
		pin.Pin(v.Base)
		v.SetLen(len(b))
		iov = append(iov, v)
	}
	for _, p := range params {
		add(p[0])
		if p[1] == "" {
			iov = append(iov, unix.Iovec{})
		} else {
			add(p[1])
		}
	}
	id, _, errno := syscall.Syscall(unix.SYS_JAIL_SET, uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)), create)
	runtime.KeepAlive(iov)
	if errno != 0 {
		return 0, errno
	}
	return int(id), nil
}
