// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A kernel that sleeps until a signal comes is woken by the context, and only by it.
func TestWaitInterrupted(t *testing.T) {
	var sleeps atomic.Int32
	d := Fake(func(Op, *Cmd, []byte, []byte, []byte) syscall.Errno {
		sleeps.Add(1)
		return unix.Pause().(syscall.Errno)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r := d.Request("tank")
	defer r.Release()
	if err := r.Wait(ctx, Wait, 64); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if sleeps.Load() == 0 {
		t.Error("it never slept")
	}
	// One that does not sleep is not disturbed.
	d = Fake(func(Op, *Cmd, []byte, []byte, []byte) syscall.Errno {
		if sleeps.Add(-1) >= 0 {
			return syscall.EINTR
		}
		return syscall.ENOENT
	})
	if err := d.Request("tank").Wait(t.Context(), Wait, 64); !errors.Is(err, syscall.ENOENT) {
		t.Error(err)
	}
}
