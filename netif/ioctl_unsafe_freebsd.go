// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl issues a request with a structure of the size that the request says.
// What the structure points to is Go memory, which does not move.
func ioctl[T any](fd int, req uint32, arg *T) error {
	if size := req >> 16 & 0x1fff; uintptr(size) != unsafe.Sizeof(*arg) {
		return fmt.Errorf("ioctl %#x wants %d bytes, not %d", req, size, unsafe.Sizeof(*arg))
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(arg))); errno != 0 {
		return errno
	}
	return nil
}

// sizeOf is the size of what p points to.
func sizeOf[T any](*T) uint64 {
	var v T
	return uint64(unsafe.Sizeof(v))
}

// loadModule is kldload(2).
func loadModule(name string) error {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_KLDLOAD, uintptr(unsafe.Pointer(p)), 0, 0); errno != 0 && errno != unix.EEXIST {
		return errno
	}
	return nil
}
