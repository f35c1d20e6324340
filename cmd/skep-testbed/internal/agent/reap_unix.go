// SPDX-License-Identifier: BSD-2-Clause

//go:build linux || freebsd

package agent

import (
	"errors"

	"golang.org/x/sys/unix"
)

// reapUntil collects dead processes until the one with that id is among them.
func reapUntil(pid int) {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		if got == pid && (status.Exited() || status.Signaled()) {
			return
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
