// SPDX-License-Identifier: BSD-2-Clause

package block

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// vectorIO is preadv(2) or pwritev(2), which x/sys has only as numbers.
func vectorIO(o op, fd int, iov []unix.Iovec, off int64) (int, error) {
	if len(iov) == 0 {
		return 0, nil
	}
	nr := uintptr(unix.SYS_PREADV)
	switch o {
	case opTryRead:
		return 0, unix.EOPNOTSUPP // FreeBSD has no such read
	case opWrite:
		nr = unix.SYS_PWRITEV
	}
	n, _, e := unix.Syscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)), uintptr(off), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

func ioctl(fd int, req uintptr, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

func diskFlush(fd int) error { return ioctl(fd, unix.DIOCGFLUSH, nil) }

func diskDelete(fd int, off, n int64) error {
	r := [2]int64{off, n}
	return ioctl(fd, unix.DIOCGDELETE, unsafe.Pointer(&r))
}

func diskGeometry(fd int) (size int64, sector int, stripe int64, err error) {
	var s uint32
	if err = ioctl(fd, unix.DIOCGMEDIASIZE, unsafe.Pointer(&size)); err == nil {
		err = ioctl(fd, unix.DIOCGSECTORSIZE, unsafe.Pointer(&s))
	}
	if err == nil && ioctl(fd, unix.DIOCGSTRIPESIZE, unsafe.Pointer(&stripe)) != nil {
		stripe = 0
	}
	return size, int(s), stripe, err
}

// fspacectl(2), FreeBSD 14 and later.
const (
	sysFspacectl    = 580
	spacectlDealloc = 1
)

// deallocate makes a hole that reads as zeroes. The kernel may do a part at a
// time and moves the range along.
func deallocate(fd int, off, n int64) error {
	r := [2]int64{off, n} // struct spacectl_range
	for range 1 << 16 {
		_, _, e := unix.Syscall6(sysFspacectl, uintptr(fd), spacectlDealloc, uintptr(unsafe.Pointer(&r)), 0, uintptr(unsafe.Pointer(&r)), 0)
		if e != 0 && e != unix.EINTR {
			return e
		}
		if e == 0 && r[1] <= 0 {
			return nil
		}
	}
	return unix.EINTR
}
