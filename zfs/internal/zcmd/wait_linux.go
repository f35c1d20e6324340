// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func threadID() int { return unix.Gettid() }

// interrupt sends a thread the signal that the Go runtime preempts with: it is
// always caught, and any number of it does no harm.
func interrupt(id int) { _ = unix.Tgkill(os.Getpid(), id, syscall.SIGURG) }
