// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"bytes"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pdfork is a probe: it starts a process, which ends at once.
func pdfork() error {
	var fd int32
	return child(unix.RawSyscall(unix.SYS_PDFORK, uintptr(unsafe.Pointer(&fd)), 0, 0))
}

// rulesOf are the rctl rules of a process: rctl_get_rules(2).
func rulesOf(pid int) (string, error) {
	in := []byte(fmt.Sprintf("process:%d\x00", pid))
	out := make([]byte, 4096)
	_, _, e := unix.Syscall6(unix.SYS_RCTL_GET_RULES, uintptr(unsafe.Pointer(&in[0])), uintptr(len(in)), uintptr(unsafe.Pointer(&out[0])), uintptr(len(out)), 0, 0)
	if e != 0 {
		return "", e
	}
	s, _, _ := bytes.Cut(out, []byte{0})
	return string(s), nil
}

// ioctl makes a request with room for the largest argument there is.
func ioctl(fd int, request uintptr) error {
	var arg [8192]byte
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&arg)))
	if e != 0 {
		return e
	}
	return nil
}
