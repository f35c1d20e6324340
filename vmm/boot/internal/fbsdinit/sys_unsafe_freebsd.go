// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const sysModfind = 303 // sys/syscall.h

// bind binds the calling thread to a processor.
func bind(cpu int) error {
	mask := [128]byte{}
	mask[cpu/8] = 1 << (cpu % 8)
	// cpuset_setaffinity(CPU_LEVEL_WHICH, CPU_WHICH_TID, -1, size, mask)
	_, _, e := syscall.RawSyscall6(unix.SYS_CPUSET_SETAFFINITY, 3, 1, ^uintptr(0), uintptr(len(mask)), uintptr(unsafe.Pointer(&mask)), 0)
	if e != 0 {
		return e
	}
	return nil
}

// module tells whether the kernel has a module of that name.
func module(name string) bool {
	p, err := syscall.BytePtrFromString(name)
	if err != nil {
		return false
	}
	_, _, e := syscall.Syscall(sysModfind, uintptr(unsafe.Pointer(p)), 0, 0)
	return e == 0
}
