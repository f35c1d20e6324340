// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"runtime"
	"syscall"
	"unsafe"
)

// call sends the request with the addresses of its buffers, which stay pinned until the kernel is done with them.
func (d *Device) call(op Op, r *Request, dst []byte) syscall.Errno {
	raw, err := d.f.SyscallConn()
	if err != nil {
		return syscall.EBADF
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	at := func(b []byte) uint64 {
		if len(b) == 0 {
			return 0
		}
		p := unsafe.SliceData(b)
		pin.Pin(p)
		return uint64(uintptr(unsafe.Pointer(p)))
	}
	r.Cmd.NvlistSrc, r.Cmd.NvlistConf, r.Cmd.NvlistDst = at(r.src), at(r.conf), at(dst)
	r.Cmd.History = at(r.hist)
	var errno syscall.Errno
	// Control keeps the descriptor open for the length of the request.
	if err := raw.Control(func(fd uintptr) { errno = ioctl(fd, op, &r.Cmd) }); err != nil {
		return syscall.EBADF
	}
	return errno
}
