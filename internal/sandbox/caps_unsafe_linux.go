// SPDX-License-Identifier: BSD-2-Clause

package sandbox

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dropCapabilities empties the effective, permitted and inheritable sets, on all
// threads: capset(2). Ambient ones go with the permitted. The bounding set is of
// no use to a process that may not execute anything. In a program with cgo the
// runtime cannot reach all threads; there becoming another user has done it.
func dropCapabilities() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	_, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&none[0])), 0)
	runtime.KeepAlive(&hdr)
	runtime.KeepAlive(&none)
	if e != syscall.ENOTSUP {
		return errnoError("capset", e)
	}
	if err := unix.Capget(&hdr, &none[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	if none != ([2]unix.CapUserData{}) {
		return errors.New("drop capabilities: a program built with cgo can do it only by becoming another user, and none is configured")
	}
	return nil
}

func errnoError(call string, e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return os.NewSyscallError(call, e)
}

// load puts a filter in force on all threads: seccomp(2).
func load(prog []unix.SockFilter) error {
	// no_new_privs is the thread's own until seccomp(2) hands it to the others:
	// on another thread that call would be refused.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", err)
	}
	fp := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	// TSYNC sets the filter, and no_new_privs, on the other threads too.
	r, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fp)))
	runtime.KeepAlive(&fp)
	if e != 0 {
		return os.NewSyscallError("seccomp", e)
	}
	if r != 0 {
		return os.NewSyscallError("seccomp TSYNC", unix.EBUSY) // the thread that could not be synchronized
	}
	return nil
}
