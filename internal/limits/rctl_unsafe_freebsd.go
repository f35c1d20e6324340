// SPDX-License-Identifier: BSD-2-Clause

package limits

import (
	"bytes"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxRules bounds what rctl answers.
const maxRules = 4 << 10

// rctl is rctl_add_rule(2) or one of its kin: a string in, a string out, both with
// their NUL.
func rctl(nr uintptr, in string) (string, error) {
	arg, err := unix.BytePtrFromString(in)
	if err != nil {
		return "", err
	}
	out := make([]byte, maxRules)
	_, _, e := unix.Syscall6(nr, uintptr(unsafe.Pointer(arg)), uintptr(len(in)+1), uintptr(unsafe.Pointer(&out[0])), uintptr(len(out)), 0, 0)
	runtime.KeepAlive(arg)
	runtime.KeepAlive(out)
	if e != 0 {
		return "", e
	}
	s, _, _ := bytes.Cut(out, []byte{0})
	return string(s), nil
}
