// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl issues a request. The structure and what it points to are Go memory,
// which does not move; the pointers in it keep theirs alive.
func (d fileDevice) ioctl(req uint32, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.f.Fd(), uintptr(req), uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// limitIoctls is cap_ioctls_limit(2).
func limitIoctls(fd uintptr, requests []uint32) error {
	cmds := make([]uint, len(requests)) // u_long
	for i, r := range requests {
		cmds[i] = uint(r)
	}
	if _, _, errno := unix.Syscall(unix.SYS_CAP_IOCTLS_LIMIT, fd, uintptr(unsafe.Pointer(unsafe.SliceData(cmds))), uintptr(len(cmds))); errno != 0 {
		return errno
	}
	return nil
}

func withString(trap uintptr, s string) error {
	p, err := unix.BytePtrFromString(s)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(trap, uintptr(unsafe.Pointer(p)), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// moduleFind is modfind(2).
func moduleFind(name string) error { return withString(unix.SYS_MODFIND, name) }

// moduleLoad is kldload(2).
func moduleLoad(name string) error { return withString(unix.SYS_KLDLOAD, name) }

// sysctl is sysctlbyname(3): __sysctlbyname(2).
func sysctl(name string, old []byte, oldlen *uintptr, value []byte) error {
	n := []byte(name)
	var oldp, newp unsafe.Pointer
	if len(old) > 0 {
		oldp = unsafe.Pointer(&old[0])
	}
	if len(value) > 0 {
		newp = unsafe.Pointer(&value[0])
	}
	_, _, errno := syscall.Syscall6(unix.SYS___SYSCTLBYNAME, uintptr(unsafe.Pointer(&n[0])), uintptr(len(n)),
		uintptr(oldp), uintptr(unsafe.Pointer(oldlen)), uintptr(newp), uintptr(len(value)))
	if errno != 0 {
		return errno
	}
	return nil
}

// readSysctl asks whether a sysctl can be read.
func readSysctl(name string) error {
	old := make([]byte, 1024)
	n := uintptr(len(old))
	return sysctl(name, old, &n, nil)
}

// writeSysctl writes a string.
func writeSysctl(name, value string) error {
	return sysctl(name, nil, nil, append([]byte(value), 0))
}
