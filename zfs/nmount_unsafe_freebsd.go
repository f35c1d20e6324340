// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nmount calls nmount(2) with pairs of strings; "errmsg" brings back the kernel's words.
func nmount(options [][2]string, flags int) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	var iov []unix.Iovec
	add := func(b []byte) {
		p := unsafe.SliceData(b)
		pin.Pin(p)
		v := unix.Iovec{Base: p}
		v.SetLen(len(b))
		iov = append(iov, v)
	}
	for _, o := range options {
		add(append([]byte(o[0]), 0))
		add(append([]byte(o[1]), 0))
	}
	message := make([]byte, 256)
	add([]byte("errmsg\x00"))
	add(message)
	_, _, errno := syscall.Syscall(unix.SYS_NMOUNT, uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)), uintptr(flags))
	runtime.KeepAlive(iov)
	if errno == 0 {
		return nil
	}
	if s := cString(message); s != "" {
		return &mountError{s, errno}
	}
	return errno
}

type mountError struct {
	text  string
	errno syscall.Errno
}

func (e *mountError) Error() string { return e.text + ": " + e.errno.Error() }
func (e *mountError) Unwrap() error { return e.errno }
