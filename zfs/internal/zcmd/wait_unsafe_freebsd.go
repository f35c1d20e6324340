// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func threadID() int {
	var id int
	_, _, _ = syscall.Syscall(unix.SYS_THR_SELF, uintptr(unsafe.Pointer(&id)), 0, 0)
	return id
}

// interrupt sends a thread the signal that the Go runtime preempts with: it is
// always caught, and any number of it does no harm.
func interrupt(id int) {
	_, _, _ = syscall.Syscall(unix.SYS_THR_KILL, uintptr(id), uintptr(syscall.SIGURG), 0)
}
