// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"fmt"
	"syscall"
	"time"
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

// countReads reads a port of /dev/io for a time, and tells how often and the
// nanoseconds. It does so in a process of its own, which after a fork has none of
// the runtime's other threads: where an exit takes milliseconds, as emulated, those
// would look after a system call that lasts, and be measured instead. It may do
// nothing there but system calls.
func countReads(fd uintptr, port uint32, lasts time.Duration) (reads, ns int64, err error) {
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Munmap(page)
	told := (*[3]int64)(unsafe.Pointer(&page[0]))
	const monotonic = 4                                                    // CLOCK_MONOTONIC of sys/_clock_id.h
	req := struct{ access, port, width, val uint32 }{port: port, width: 1} // struct iodev_pio_req: a read
	var begin, now unix.Timespec
	pid, _, e := syscall.RawSyscall(syscall.SYS_FORK, 0, 0, 0)
	if e != 0 {
		return 0, 0, e
	}
	if pid == 0 {
		syscall.RawSyscall(unix.SYS_CLOCK_GETTIME, monotonic, uintptr(unsafe.Pointer(&begin)), 0)
		for {
			for range 16 {
				if _, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, fd, iodevPIO, uintptr(unsafe.Pointer(&req))); e != 0 {
					told[2] = int64(e)
					syscall.RawSyscall(syscall.SYS_EXIT, 1, 0, 0)
				}
			}
			told[0] += 16
			syscall.RawSyscall(unix.SYS_CLOCK_GETTIME, monotonic, uintptr(unsafe.Pointer(&now)), 0)
			told[1] = (now.Sec-begin.Sec)*1e9 + now.Nsec - begin.Nsec
			if told[1] >= int64(lasts) {
				syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
			}
		}
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(int(pid), &status, 0, nil); err != nil {
		return 0, 0, err
	}
	if told[2] != 0 {
		return 0, 0, syscall.Errno(told[2])
	}
	if status != 0 {
		return 0, 0, fmt.Errorf("it ended with %#x", status)
	}
	return told[0], told[1], nil
}
