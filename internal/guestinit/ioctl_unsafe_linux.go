// SPDX-License-Identifier: BSD-2-Clause

package guestinit

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlRange passes {start, length} (BLKDISCARD and its like, linux/fs.h).
func ioctlRange(f *os.File, request uint, start, length uint64) error {
	arg := [2]uint64{start, length}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return fmt.Errorf("ioctl %#x of %d bytes at %d: %w", request, length, start, errno)
	}
	return nil
}

// addressOf is where p lies in our own address space.
func addressOf(p []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))) }
