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

const (
	diocgmediasize = 0x40086481 // sys/disk.h
	iodevPIO       = 0xc0104900 // dev/io/iodev.h
	monotonic      = 4          // CLOCK_MONOTONIC of sys/_clock_id.h
	siocaifaddr    = 0x8044692b // sys/sockio.h
)

// ioctl makes a request whose argument is a T.
func ioctl[T any](fd, request uintptr, arg *T) error {
	_, _, e := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(arg)))
	if e != 0 {
		return e
	}
	return nil
}
