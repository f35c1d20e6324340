// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func signalThread(id int, s syscall.Signal) { _ = unix.Tgkill(os.Getpid(), id, s) }

// sleep gives EINTR if a signal ends it.
func sleep(d time.Duration) syscall.Errno {
	ts := unix.NsecToTimespec(int64(d))
	if err := unix.Nanosleep(&ts, nil); err != nil {
		return err.(syscall.Errno)
	}
	return 0
}
