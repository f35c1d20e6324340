// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"os"

	"golang.org/x/sys/unix"
)

// pipe is pipe2(2) in blocking mode, as in pipe_freebsd.go.
func pipe() (r, w *os.File, err error) {
	var fd [2]int
	if err := unix.Pipe2(fd[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	return os.NewFile(uintptr(fd[0]), "doorbell"), os.NewFile(uintptr(fd[1]), "doorbell"), nil
}
