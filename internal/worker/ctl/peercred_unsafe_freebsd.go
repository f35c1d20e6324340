// SPDX-License-Identifier: BSD-2-Clause

package ctl

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func peerCred(fd int) (Cred, error) {
	var u xucred
	n := uint32(unsafe.Sizeof(u))
	if _, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED,
		uintptr(unsafe.Pointer(&u)), uintptr(unsafe.Pointer(&n)), 0); e != 0 {
		return Cred{}, os.NewSyscallError("getsockopt LOCAL_PEERCRED", e)
	}
	if u.Version != xucredVersion {
		return Cred{}, fmt.Errorf("getsockopt LOCAL_PEERCRED: xucred of version %d, not %d", u.Version, xucredVersion)
	}
	return Cred{UID: u.UID, PID: int(u.PID)}, nil
}
