// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package limits

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setSysctl sets one that is an int.
func setSysctl(name string, v uint32) error {
	n := []byte(name)
	_, _, errno := unix.Syscall6(unix.SYS___SYSCTLBYNAME, uintptr(unsafe.Pointer(&n[0])), uintptr(len(n)), 0, 0,
		uintptr(unsafe.Pointer(&v)), unsafe.Sizeof(v))
	if errno != 0 {
		return fmt.Errorf("set %s: %w", name, errno)
	}
	return nil
}
