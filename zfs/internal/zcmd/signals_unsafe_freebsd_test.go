// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func signalThread(id int, s syscall.Signal) {
	_, _, _ = syscall.Syscall(unix.SYS_THR_KILL, uintptr(id), uintptr(s), 0)
}

// sleep gives EINTR if a signal ends it.
func sleep(d time.Duration) syscall.Errno {
	ts := unix.NsecToTimespec(int64(d))
	_, _, errno := syscall.Syscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
	return errno
}
