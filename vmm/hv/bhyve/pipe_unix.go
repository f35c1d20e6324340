// SPDX-License-Identifier: BSD-2-Clause

//go:build freebsd || linux

package bhyve

import (
	"os"

	"golang.org/x/sys/unix"
)

// pipe is pipe2(2) in blocking mode: os.Pipe's goes through the runtime's poller.
func pipe() (r, w *os.File, err error) {
	var fd [2]int
	if err := unix.Pipe2(fd[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	r, w = os.NewFile(uintptr(fd[0]), "doorbell"), os.NewFile(uintptr(fd[1]), "doorbell")
	if err := limitPipe(r, w); err != nil {
		r.Close()
		w.Close()
		return nil, nil, err
	}
	return r, w, nil
}
