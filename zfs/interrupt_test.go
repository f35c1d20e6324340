// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// piped is a kernel that sends and receives as send and receive say, through the descriptors it is given.
func piped(t *testing.T, send, receive func(fd int) syscall.Errno) *Handle {
	k, h := newKernel(t, "tank", "tank/v", "tank/v@x")
	h.dev = zcmd.Fake(func(op zcmd.Op, c *zcmd.Cmd, src, conf, dst []byte) syscall.Errno {
		in, _ := nvlist.Decode(src)
		switch op {
		case zcmd.SendNew:
			fd, _ := nvlist.Get[int32](in, "fd")
			return send(int(fd))
		case zcmd.RecvNew:
			fd, _ := nvlist.Get[int32](in, "input_fd")
			return receive(int(fd))
		}
		return k.serve(op, c, src, conf, dst)
	})
	return h
}

// What a signal cut is not begun again behind what went before: it is an error.
func TestInterrupted(t *testing.T) {
	stream := sample(t)
	ctx := t.Context()
	var sends, receives atomic.Int32
	interrupted := func(fd int) syscall.Errno {
		if sends.Add(1) > 1 {
			return writeAll(fd, stream)
		}
		_ = writeAll(fd, stream[:3*recordSize])
		return syscall.EINTR
	}
	all := func(fd int) syscall.Errno {
		receives.Add(1)
		var b bytes.Buffer
		if e := readAll(fd, &b, 0); e != 0 {
			return e
		}
		if b.Len() != len(stream)-recordSize {
			return syscall.Errno(errStreamTruncated)
		}
		return 0
	}
	h := piped(t, interrupted, all)
	var out bytes.Buffer
	if err := h.Send(ctx, &out, "tank/v@x", SendOptions{}); !errors.Is(err, syscall.EINTR) || sends.Load() != 1 || out.Len() != 3*recordSize {
		t.Errorf("send: %v, %d requests, %d bytes", err, sends.Load(), out.Len())
	}
	sends.Store(0)
	if _, err := h.Copy(ctx, "tank/v@x", "tank/w", SendOptions{}, ReceiveOptions{}); !errors.Is(err, syscall.EINTR) || sends.Load() != 1 || receives.Load() != 1 {
		t.Errorf("copy: %v, %d and %d requests", err, sends.Load(), receives.Load())
	}
	receives.Store(0)
	h = piped(t, func(fd int) syscall.Errno { return writeAll(fd, stream) }, func(fd int) syscall.Errno {
		receives.Add(1)
		_, _ = syscall.Read(fd, make([]byte, recordSize))
		return syscall.EINTR
	})
	if _, err := h.Receive(ctx, bytes.NewReader(stream), "tank/w", ReceiveOptions{}); !errors.Is(err, syscall.EINTR) || receives.Load() != 1 {
		t.Errorf("receive: %v, %d requests", err, receives.Load())
	}
	receives.Store(0)
	if _, err := h.Copy(ctx, "tank/v@x", "tank/w", SendOptions{}, ReceiveOptions{}); !errors.Is(err, syscall.EINTR) || receives.Load() != 1 {
		t.Errorf("copy: %v, %d requests", err, receives.Load())
	}
}

// A send that lost its reader, which a kernel may call EINTR, is not why the receive failed.
func TestCopyBlames(t *testing.T) {
	stream := sample(t)
	h := piped(t, func(fd int) syscall.Errno {
		for writeAll(fd, stream) == 0 {
		}
		return syscall.EINTR
	}, func(int) syscall.Errno { return syscall.Errno(errSpillFlagMissing) })
	if _, err := h.Copy(t.Context(), "tank/v@x", "tank/w", SendOptions{}, ReceiveOptions{}); !errors.Is(err, errSpillFlagMissing) {
		t.Error(err)
	}
}

// blockedWriters are writers of whom nobody reads, by their kind.
var blockedWriters = map[string]func(t *testing.T) io.Writer{
	"pipe": func(t *testing.T) io.Writer {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = r.Close(), w.Close() })
		return w
	},
	"pipe of the program's own": func(t *testing.T) io.Writer {
		r, w := net.Pipe()
		t.Cleanup(func() { _, _ = r.Close(), w.Close() })
		return w
	},
	"connection": func(t *testing.T) io.Writer {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		w, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		r, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = r.Close(), w.Close() })
		return w
	},
}

// The end of the context alone ends a send to one who does not read, and the writer can be written to afterwards.
func TestSendCancel(t *testing.T) {
	stream := sample(t)
	h := piped(t, func(fd int) syscall.Errno {
		for {
			if e := writeAll(fd, stream); e != 0 {
				return e
			}
		}
	}, nil)
	for what, writer := range blockedWriters {
		t.Run(what, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w := writer(t)
			done := make(chan error, 1)
			go func() { done <- h.Send(ctx, w, "tank/v@x", SendOptions{}) }()
			time.AfterFunc(100*time.Millisecond, cancel)
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it does not end")
			}
			dl := w.(interface{ SetWriteDeadline(time.Time) error })
			start := time.Now()
			time.AfterFunc(50*time.Millisecond, func() { _ = dl.SetWriteDeadline(time.Now()) })
			if _, err := w.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) < 40*time.Millisecond {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	}
}

// A writer that was closed has nothing of the stream, and that is not passed over.
func TestSendClosed(t *testing.T) {
	h := piped(t, func(fd int) syscall.Errno { return writeAll(fd, sample(t)[:1000]) }, nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = r.Close(), w.Close()
	if err := h.Send(t.Context(), w, "tank/v@x", SendOptions{}); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// The end of the context alone ends a receive from one who does not write, before the stream as in it.
func TestReceiveSilent(t *testing.T) {
	_, h := streamKernel(t, "tank", "tank/s", "tank/s@a", "in")
	var tree, one bytes.Buffer
	if err := errors.Join(h.SendTree(t.Context(), &tree, "tank/s@a", SendTreeOptions{}), h.Send(t.Context(), &one, "tank/s@a", SendOptions{})); err != nil {
		t.Fatal(err)
	}
	receive := func(ctx context.Context, r io.Reader) error {
		_, err := h.Receive(ctx, r, "in/r", ReceiveOptions{})
		return err
	}
	receiveTree := func(ctx context.Context, r io.Reader) error {
		_, err := h.ReceiveTree(ctx, r, "in/t", ReceiveTreeOptions{})
		return err
	}
	for _, tc := range []struct {
		what string
		do   func(context.Context, io.Reader) error
		came []byte
	}{
		{"a stream, nothing", receive, nil}, {"a stream, half a record", receive, one.Bytes()[:recordSize/2]}, {"a package, nothing", receiveTree, nil},
		{"a package, its header", receiveTree, tree.Bytes()[:recordSize+10]},
		{"a package, all but its END", receiveTree, tree.Bytes()[:tree.Len()-recordSize]},
	} {
		t.Run(tc.what, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			if _, err := w.Write(tc.came); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- tc.do(ctx, r) }()
			time.AfterFunc(100*time.Millisecond, cancel)
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("it does not end")
			}
			if _, err := w.WriteString("more"); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Read(make([]byte, 4)); err != nil {
				t.Errorf("it cannot be read from afterwards: %v", err)
			}
		})
	}
}

// A package's own records are cut by the end of the context as its streams are.
func TestSendTreeCancel(t *testing.T) {
	_, h := streamKernel(t, "tank", "tank/s", "tank/s@a")
	_, w := net.Pipe()
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- h.SendTree(ctx, w, "tank/s@a", SendTreeOptions{}) }()
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
}
