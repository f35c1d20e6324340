// SPDX-License-Identifier: BSD-2-Clause

package block

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// vectorIO is preadv2(2) or pwritev(2) without the copying of iovecs that the
// wrappers do.
func vectorIO(o op, fd int, iov []unix.Iovec, off int64) (int, error) {
	if len(iov) == 0 {
		return 0, nil
	}
	nr, flags := uintptr(unix.SYS_PREADV2), uintptr(0)
	switch o {
	case opTryRead:
		flags = unix.RWF_NOWAIT
	case opWrite:
		nr = unix.SYS_PWRITEV2
	}
	// The offset is passed in two halves; the kernel takes the low word whole on
	// 64-bit systems.
	n, _, e := unix.Syscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)), uintptr(off), 0, flags)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

func blkSize(fd int) (int64, error) {
	var n uint64
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&n))); e != 0 {
		return 0, e
	}
	return int64(n), nil
}

func blkRange(fd int, req uintptr, off, n int64) error {
	r := [2]uint64{uint64(off), uint64(n)}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(unsafe.Pointer(&r))); e != 0 {
		return e
	}
	return nil
}
