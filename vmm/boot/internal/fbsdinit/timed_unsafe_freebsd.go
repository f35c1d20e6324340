// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// step is one of the actions that timed counts. It may do nothing but system calls,
// by RawSyscall: it runs in a process without a runtime. turn counts those of all
// processes, random is a number of its own.
type step func(turn int64, random uint64) syscall.Errno

// told is what a process of timed tells, in memory that all share.
type told struct {
	done, ns int64
	errno    int64
	_        [5]int64
}

// timed has some processes do a step, again and again for a time, and tells how
// often they did, and the nanoseconds. Each is a fork of this one, which has none
// of the runtime's other threads: where an exit takes milliseconds, as emulated,
// those would look after every system call, and be measured instead.
func timed(processes int, lasts time.Duration, do step) (done, ns int64, err error) {
	page, err := unix.Mmap(-1, 0, (processes+1)*int(unsafe.Sizeof(told{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Munmap(page)
	all := unsafe.Slice((*told)(unsafe.Pointer(&page[0])), processes+1)
	turn, all := &all[0].done, all[1:]
	// Here, so that no process needs more stack than it has.
	if e := do(0, 0); e != 0 {
		return 0, 0, e
	}
	pids := make([]int, 0, processes)
	for i := range all {
		pid, _, e := syscall.RawSyscall(syscall.SYS_FORK, 0, 0, 0)
		if e != 0 {
			err = e
			break
		}
		if pid == 0 {
			repeat(&all[i], turn, uint64(i)+1, int64(lasts), do)
		}
		pids = append(pids, int(pid))
	}
	for i, pid := range pids {
		var status syscall.WaitStatus
		_, werr := syscall.Wait4(pid, &status, 0, nil)
		switch {
		case werr != nil:
			err = errors.Join(err, werr)
		case all[i].errno != 0:
			err = errors.Join(err, syscall.Errno(all[i].errno))
		case status != 0:
			err = errors.Join(err, fmt.Errorf("process %d ended with %#x", i, status))
		}
		done, ns = done+all[i].done, max(ns, all[i].ns)
	}
	return done, ns, err
}

// repeat is the life of one of timed's processes.
func repeat(t *told, turn *int64, random uint64, lasts int64, do step) {
	var begin, now unix.Timespec
	syscall.RawSyscall(unix.SYS_CLOCK_GETTIME, monotonic, uintptr(unsafe.Pointer(&begin)), 0)
	for t.ns < lasts {
		// Xorshift (Marsaglia 2003).
		random ^= random << 13
		random ^= random >> 7
		random ^= random << 17
		if e := do(atomic.AddInt64(turn, 1)-1, random); e != 0 {
			t.errno = int64(e)
			syscall.RawSyscall(syscall.SYS_EXIT, 1, 0, 0)
		}
		t.done++
		syscall.RawSyscall(unix.SYS_CLOCK_GETTIME, monotonic, uintptr(unsafe.Pointer(&now)), 0)
		t.ns = (now.Sec-begin.Sec)*1e9 + now.Nsec - begin.Nsec
	}
	syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
}

// portReader reads a port of /dev/io, sixteen times a step.
func portReader(fd uintptr, port uint32) step {
	req := struct{ access, port, width, val uint32 }{port: port, width: 1} // struct iodev_pio_req: a read
	return func(int64, uint64) syscall.Errno {
		for range portReadsAStep {
			if _, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, fd, iodevPIO, uintptr(unsafe.Pointer(&req))); e != 0 {
				return e
			}
		}
		return 0
	}
}

const portReadsAStep = 16

// diskUser makes a load's requests, one a step.
func diskUser(fd uintptr, load diskLoad, buf []byte) step {
	call := uintptr(syscall.SYS_PREAD)
	if load.Write {
		call = syscall.SYS_PWRITE
	}
	at, size := unsafe.Pointer(&buf[0]), uintptr(len(buf))
	return func(turn int64, random uint64) syscall.Errno {
		block := uint64(turn)
		if load.Random {
			block = random
		}
		n, _, e := syscall.RawSyscall6(call, fd, uintptr(at), size, uintptr(block%uint64(load.Blocks))*size, 0, 0)
		if e == 0 && n != size {
			return syscall.EIO
		}
		return e
	}
}
