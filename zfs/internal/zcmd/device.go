// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"syscall"

	"github.com/skepvm/skep/zfs/nvlist"
)

const (
	path = "/dev/zfs"

	// A reply buffer that is too small costs the whole request a second time,
	// so it starts well above what a property list takes.
	firstReply = 64 << 10
	maxReply   = 1 << 30
)

// Kernel answers a request in place of /dev/zfs: it reads and changes cmd,
// puts a reply into dst and its length into cmd.NvlistDstSize, and gives an
// errno. Tests make devices of it.
type Kernel func(op Op, cmd *Cmd, src, conf, dst []byte) syscall.Errno

// Device is an open /dev/zfs. It is safe for concurrent use.
type Device struct {
	f    *os.File
	fake Kernel
	pool sync.Pool // of *Request
}

// Open opens /dev/zfs. It fails with an error that wraps fs.ErrNotExist where no module is loaded.
func Open() (*Device, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &Device{f: f}, nil
}

// Fake makes a device whose kernel is a function.
func Fake(k Kernel) *Device { return &Device{fake: k} }

// Close closes the device. Holds with automatic release that were taken through it are released.
func (d *Device) Close() error {
	if d.f == nil {
		return nil
	}
	return d.f.Close()
}

// Fd is the descriptor, for requests that name one (the cleanup of holds).
func (d *Device) Fd() int32 {
	if d.f == nil {
		return -1
	}
	return int32(d.f.Fd())
}

// Request is one request, or a run of them that carry on from each other's answer.
type Request struct {
	Cmd Cmd

	dev       *Device
	src, conf []byte
	dst       []byte
	hist      []byte
	saved     Cmd
}

// Request gives an empty request about name; Release it after use.
func (d *Device) Request(name string) *Request {
	r, _ := d.pool.Get().(*Request)
	if r == nil {
		r = &Request{dev: d}
	}
	r.Cmd = Cmd{}
	r.src, r.conf, r.hist = r.src[:0], r.conf[:0], nil
	r.SetName(name)
	return r
}

// Release gives the request's buffers back. Nothing that Reply or Bytes gave is touched by it.
func (r *Request) Release() {
	clear(r.src) // it may have held a key
	r.dev.pool.Put(r)
}

// SetName sets zc_name; a longer name is cut, and the kernel refuses what is not terminated or too long.
func (r *Request) SetName(s string) { SetString(r.Cmd.Name[:], s) }

// SetString puts s into a fixed field, cut to leave a NUL.
func SetString(dst []byte, s string) {
	n := copy(dst[:len(dst)-1], s)
	clear(dst[n:])
}

// String reads a NUL-terminated fixed field.
func String(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// SetInput sets zc_nvlist_src.
func (r *Request) SetInput(l *nvlist.List) (err error) {
	r.src, err = l.AppendEncode(r.src[:0], nvlist.Native)
	return err
}

// SetConfig sets zc_nvlist_conf.
func (r *Request) SetConfig(l *nvlist.List) (err error) {
	r.conf, err = l.AppendEncode(r.conf[:0], nvlist.Native)
	return err
}

// Do sends the request and, when the reply does not fit, sends it again with a
// larger buffer. The error is a syscall.Errno, or the context's. A request that
// a signal interrupted is sent again only if it says so by being restartable.
func (r *Request) Do(ctx context.Context, op Op) error { return r.do(ctx, op, true, firstReply) }

// DoOnce is Do for a request that must not be sent twice by itself: no reply is expected, and EINTR is the caller's to judge.
func (r *Request) DoOnce(ctx context.Context, op Op) error { return r.do(ctx, op, false, 0) }

// DoSized sends the request once, with a reply buffer of just that size: ENOMEM is the caller's to judge.
func (r *Request) DoSized(ctx context.Context, op Op, size int) error {
	if len(r.dst) < size {
		r.dst = make([]byte, size)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if errno := r.send(op, r.dst[:size]); errno != 0 {
		return errno
	}
	return nil
}

// DoStream sends a request that moves a stream, which can be neither sent twice nor
// go on after a signal: once, with a reply buffer of the usual size, on a thread
// that takes no signals meanwhile. What comes in spite of that ends it with EINTR.
func (r *Request) DoStream(ctx context.Context, op Op) error {
	defer holdSignals()()
	return r.DoSized(ctx, op, firstReply)
}

func (r *Request) do(ctx context.Context, op Op, restart bool, reply int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(r.dst) < reply {
		r.dst = make([]byte, reply)
	}
	r.saved = r.Cmd
	for {
		dst := r.dst
		if reply == 0 {
			dst = nil
		}
		errno := r.send(op, dst)
		switch {
		case errno == syscall.EINTR && restart:
			if err := ctx.Err(); err != nil {
				return err
			}
		case reply != 0 && (errno == syscall.ENOMEM || errno == 0 && r.Cmd.NvlistDstSize > uint64(len(dst))):
			size := max(uint64(len(dst))*2, r.Cmd.NvlistDstSize)
			if size > maxReply {
				return syscall.ENOMEM
			}
			r.dst = make([]byte, size)
		case errno == 0:
			return nil
		default:
			return errno
		}
		r.Cmd = r.saved
	}
}

func (r *Request) send(op Op, dst []byte) syscall.Errno {
	c := &r.Cmd
	c.NvlistSrc, c.NvlistSrcSize = 0, uint64(len(r.src))
	c.NvlistConf, c.NvlistConfLen = 0, uint64(len(r.conf))
	c.NvlistDst, c.NvlistDstSize, c.DstFilled = 0, uint64(len(dst)), 0
	if r.dev.fake != nil {
		if op == PoolGetHistory {
			dst = r.hist
		}
		return r.dev.fake(op, c, r.src, r.conf, dst)
	}
	return r.dev.call(op, r, dst)
}

// History reads the next part of a pool's history, up to size bytes, and
// nothing at its end; the bytes are valid until the next use of the request.
func (r *Request) History(ctx context.Context, size int) ([]byte, error) {
	if len(r.hist) != size {
		r.hist = make([]byte, size)
	}
	r.Cmd.HistoryLen = uint64(size)
	if err := r.DoOnce(ctx, PoolGetHistory); err != nil {
		return nil, err
	}
	return r.hist[:min(r.Cmd.HistoryLen, uint64(size))], nil
}

// Bytes is a copy of the raw reply.
func (r *Request) Bytes() []byte {
	return bytes.Clone(r.dst[:min(r.Cmd.NvlistDstSize, uint64(len(r.dst)))])
}

// Raw is the raw reply, valid until the next use of the request.
func (r *Request) Raw() []byte {
	return r.dst[:min(r.Cmd.NvlistDstSize, uint64(len(r.dst)))]
}

// Reply decodes the reply; nil if the kernel gave none.
func (r *Request) Reply() (*nvlist.List, error) { return r.ReplySome(nil) }

// ReplySome decodes only those pairs of the reply whose names want reports; nil for all.
func (r *Request) ReplySome(want func(name string) bool) (*nvlist.List, error) {
	if r.Cmd.DstFilled == 0 || r.Cmd.NvlistDstSize == 0 {
		return nil, nil
	}
	if r.Cmd.NvlistDstSize > uint64(len(r.dst)) {
		return nil, fmt.Errorf("reply of %d bytes in a buffer of %d: %w", r.Cmd.NvlistDstSize, len(r.dst), nvlist.ErrTruncated)
	}
	l, err := nvlist.DecodeSome(r.dst[:r.Cmd.NvlistDstSize], want)
	if err != nil {
		return nil, fmt.Errorf("the kernel's reply: %w", err)
	}
	return l, nil
}

// Errno is the errno in err, 0 if there is none.
func Errno(err error) syscall.Errno {
	var e syscall.Errno
	errors.As(err, &e)
	return e
}

// FakeReply is for Kernel functions: it puts a reply into dst as the kernel does.
func FakeReply(cmd *Cmd, dst []byte, l *nvlist.List) syscall.Errno {
	b, err := l.Encode(nvlist.Native)
	if err != nil || len(b) > math.MaxInt32 {
		return syscall.EINVAL
	}
	cmd.NvlistDstSize = uint64(len(b))
	if len(b) > len(dst) {
		return syscall.ENOMEM
	}
	cmd.DstFilled = 1
	copy(dst, b)
	return 0
}
