// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"io"
	"time"
)

const pumpSize = 1 << 20

// pump copies r to w to its end, through the kernel where both are pipes.
func pump(w io.Writer, r io.Reader, progress func(uint64)) error {
	if progress == nil {
		progress = func(uint64) {}
	}
	total, done, err := spliceAll(w, r, progress)
	if done {
		return err
	}
	buf := make([]byte, pumpSize)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return werr
			}
			total += uint64(n)
			progress(total)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// onCancel calls interrupt when ctx ends. What it gives is called once, ends that,
// and tells whether interrupt was called; it has returned then.
func onCancel(ctx context.Context, interrupt func()) (stop func() bool) {
	done := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(done)
		interrupt()
	})
	return func() bool {
		if unhook() {
			return false
		}
		<-done
		return true
	}
}

// readDeadline and writeDeadline end a read or write that blocks when ctx ends, where
// there is a deadline to set. What they give is called once: it takes that back.
func readDeadline(ctx context.Context, r io.Reader) (stop func()) {
	if dl, ok := r.(interface{ SetReadDeadline(t time.Time) error }); ok {
		return endBy(ctx, dl.SetReadDeadline)
	}
	return func() {}
}

func writeDeadline(ctx context.Context, w io.Writer) (stop func()) {
	if dl, ok := w.(interface{ SetWriteDeadline(t time.Time) error }); ok {
		return endBy(ctx, dl.SetWriteDeadline)
	}
	return func() {}
}

func endBy(ctx context.Context, deadline func(time.Time) error) (stop func()) {
	stopped := onCancel(ctx, func() { _ = deadline(time.Unix(1, 0)) })
	return func() {
		if stopped() {
			_ = deadline(time.Time{})
		}
	}
}
