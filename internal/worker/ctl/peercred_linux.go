// SPDX-License-Identifier: BSD-2-Clause

package ctl

import (
	"os"

	"golang.org/x/sys/unix"
)

func peerCred(fd int) (Cred, error) {
	u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Cred{}, os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	return Cred{UID: u.Uid, PID: int(u.Pid)}, nil
}
