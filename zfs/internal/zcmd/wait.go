// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"context"
	"errors"
	"runtime"
	"syscall"
	"time"
)

// Wait sends a request that the kernel holds until something has happened. It
// ends early with the context's error: the thread that waits is sent a signal,
// which ends its sleep with EINTR.
func (r *Request) Wait(ctx context.Context, op Op, size int) error {
	thread := make(chan int, 1)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- threadID()
		// Signals that are not ours end the sleep too.
		err := error(syscall.EINTR)
		for errors.Is(err, syscall.EINTR) && ctx.Err() == nil {
			err = r.DoSized(ctx, op, size)
		}
		done <- err
	}()
	id := <-thread
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	for {
		interrupt(id)
		select {
		case err := <-done:
			if errors.Is(err, syscall.EINTR) {
				err = ctx.Err()
			}
			return err
		case <-time.After(10 * time.Millisecond): // it had not gone to sleep yet
		}
	}
}
