// SPDX-License-Identifier: BSD-2-Clause

package net

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// readv and writev take vectors as they are, where the wrappers of x/sys make
// new ones for every call.
func readv(fd int, iov []unix.Iovec) (int, error)  { return vectorCall(unix.SYS_READV, fd, iov) }
func writev(fd int, iov []unix.Iovec) (int, error) { return vectorCall(unix.SYS_WRITEV, fd, iov) }

func vectorCall(nr uintptr, fd int, iov []unix.Iovec) (int, error) {
	if len(iov) == 0 {
		return 0, unix.EINVAL
	}
	n, _, e := unix.Syscall(nr, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}
