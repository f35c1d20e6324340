// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// holdSignals locks the goroutine to its thread and keeps signals from it until what
// it gives is called; those to the process go to other threads, those to this one wait.
func holdSignals() (restore func()) {
	runtime.LockOSThread()
	var set, old unix.Sigset_t
	for i := range set.Val {
		set.Val[i] = ^set.Val[i]
	}
	// Not those of faults, and not the runtime's own to run a system call on each thread
	// (syscall.AllThreadsSyscall), which waits until every one has.
	for _, s := range []syscall.Signal{syscall.SIGILL, syscall.SIGTRAP, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGSEGV, syscall.SIGSYS, sigPerThread} {
		set.Val[(s-1)/64] &^= 1 << ((s - 1) % 64)
	}
	if unix.PthreadSigmask(unix.SIG_SETMASK, &set, &old) != nil {
		return runtime.UnlockOSThread
	}
	return func() {
		// A thread that stays deaf is not given back: it ends with the goroutine.
		if unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) == nil {
			runtime.UnlockOSThread()
		}
	}
}
