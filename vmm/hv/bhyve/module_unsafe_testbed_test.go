// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && freebsd

package bhyve

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// kldFind is kldfind(2): the id of a module's file.
func kldFind(file string) (uintptr, error) {
	p, err := unix.BytePtrFromString(file)
	if err != nil {
		return 0, err
	}
	id, _, errno := unix.Syscall(unix.SYS_KLDFIND, uintptr(unsafe.Pointer(p)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return id, nil
}
