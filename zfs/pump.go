// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"io"
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
