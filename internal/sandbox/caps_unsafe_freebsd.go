// SPDX-License-Identifier: BSD-2-Clause

package sandbox

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// limitIoctls is cap_ioctls_limit(2); u_long is a uint. An empty list allows none.
func limitIoctls(fd uintptr, requests []uint) error {
	_, _, e := unix.Syscall(unix.SYS_CAP_IOCTLS_LIMIT, fd, uintptr(unsafe.Pointer(unsafe.SliceData(requests))), uintptr(len(requests)))
	if e != 0 {
		return e
	}
	return nil
}
