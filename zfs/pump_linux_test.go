// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"
)

// A pipe that is closed under the pump, at whichever end and however far it is, is os.ErrClosed.
func TestPumpClosed(t *testing.T) {
	for _, which := range []string{"reader", "writer, full", "closed before"} {
		r, src, err := bigPipe()
		if err != nil {
			t.Fatal(err)
		}
		dst, w, err := bigPipe()
		if err != nil {
			t.Fatal(err)
		}
		closing := r
		switch which {
		case "writer, full":
			closing = w
			go func() { _, _ = src.Write(make([]byte, 4*pumpSize)) }()
		case "closed before":
			_ = w.Close()
		}
		time.AfterFunc(50*time.Millisecond, func() { _ = closing.Close() })
		if err := pump(w, r, nil); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: %v", which, err)
		}
		for _, f := range []*os.File{r, src, dst, w} {
			_ = f.Close()
		}
	}
}

// A standard output that is a pipe is one that blocks, of which the runtime cannot
// wait for anything: what goes there comes whole all the same.
func TestPumpBlocking(t *testing.T) {
	for _, which := range []string{"writer", "reader"} {
		r, src, err := bigPipe()
		if err != nil {
			t.Fatal(err)
		}
		dst, w, err := bigPipe()
		if err != nil {
			t.Fatal(err)
		}
		blocking := func(f *os.File) *os.File {
			fd, err := syscall.Dup(int(f.Fd())) // Fd makes it one that blocks
			if err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
			return os.NewFile(uintptr(fd), "blocking")
		}
		if which == "writer" {
			w = blocking(w)
		} else {
			r = blocking(r)
		}
		const size = 4*pumpSize + 1
		go func() {
			_, _ = src.Write(make([]byte, size/2))
			time.Sleep(20 * time.Millisecond) // the reader finds nothing
			_, _ = src.Write(make([]byte, size-size/2))
			_ = src.Close()
		}()
		got := make(chan int64, 1)
		go func() {
			time.Sleep(20 * time.Millisecond) // the writer finds no room
			n, _ := io.Copy(io.Discard, dst)
			got <- n
		}()
		if err := pump(w, r, nil); err != nil {
			t.Errorf("%s: %v", which, err)
		}
		_, _ = r.Close(), w.Close()
		if n := <-got; n != size {
			t.Errorf("%s: %d bytes came, not %d", which, n, size)
		}
		_ = dst.Close()
	}
}
