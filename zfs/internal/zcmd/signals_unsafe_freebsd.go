// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// holdSignals locks the goroutine to its thread and keeps signals from it until what
// it gives is called; those to the process go to other threads, those to this one wait.
func holdSignals() (restore func()) {
	runtime.LockOSThread()
	set := sigset{^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0)}
	// Not those of faults.
	for _, s := range []syscall.Signal{syscall.SIGILL, syscall.SIGTRAP, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGSEGV, syscall.SIGSYS} {
		set[(s-1)/32] &^= 1 << ((s - 1) % 32)
	}
	var old sigset
	if sigmask(&set, &old) != 0 {
		return runtime.UnlockOSThread
	}
	return func() {
		// A thread that stays deaf is not given back: it ends with the goroutine.
		if sigmask(&old, nil) == 0 {
			runtime.UnlockOSThread()
		}
	}
}

func sigmask(set, old *sigset) syscall.Errno {
	_, _, errno := syscall.Syscall(unix.SYS_SIGPROCMASK, sigSetmask, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)))
	return errno
}
