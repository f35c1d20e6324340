// SPDX-License-Identifier: BSD-2-Clause

package kvm

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl makes a request that takes a number.
func ioctl(fd int, req, arg uintptr) (int, error) {
	for {
		r, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, arg)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return 0, e
		}
		return int(r), nil
	}
}

// ioctlPtr makes a request that takes a pointer.
func ioctlPtr[T any](fd int, req uintptr, p *T) (int, error) {
	for {
		r, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(unsafe.Pointer(p)))
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return 0, e
		}
		return int(r), nil
	}
}

// enter is KVM_RUN: unlike ioctl it reports EINTR.
func enter(fd int) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), kvmRun, 0)
	return e
}

// page views the start of a vCPU's mapping, which outlives it.
func page(b []byte) *runPage {
	_ = b[unsafe.Sizeof(runPage{})-1]
	return (*runPage)(unsafe.Pointer(unsafe.SliceData(b)))
}

// view looks at the union of a run page as a T, which must fit.
func view[T runIO | runMMIO | runFailEntry | runInternal | runEmulation | runSystemEvent](p *runPage) *T {
	return (*T)(unsafe.Pointer(&p.U))
}

// immediate sets or clears kvm_run.immediate_exit. The kernel and other threads
// look at it at any time.
func (p *runPage) immediate(on bool) {
	var v uint32
	if on {
		v = immediateExit
	}
	atomic.StoreUint32(&p.Control, v)
}

func (p *runPage) isImmediate() bool { return atomic.LoadUint32(&p.Control) != 0 }

// mapAnonymous reserves size bytes of zeroed memory, aligned to 2 MiB so that
// the kernel can back guest memory by large pages.
func mapAnonymous(size uint64) (mapping unsafe.Pointer, length uintptr, b []byte, err error) {
	const huge = 2 << 20
	length = uintptr(size + huge)
	p, err := unix.MmapPtr(-1, 0, nil, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, 0, nil, err
	}
	pad := -uintptr(p) & (huge - 1)
	return p, length, unsafe.Slice((*byte)(unsafe.Add(p, pad)), size), nil
}

func unmapAnonymous(p unsafe.Pointer, length uintptr) error { return unix.MunmapPtr(p, length) }

func addressOf(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

type mapping struct {
	p      unsafe.Pointer
	length uintptr
}
