// SPDX-License-Identifier: BSD-2-Clause

package net

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// file is a Backend on a descriptor whose reads and writes are frames with
// header.
type file struct {
	f     *os.File
	rc    syscall.RawConn
	fd    int
	tap   bool
	can   Offload
	write []unix.Iovec

	// One reader: its arguments lie here so that waiting allocates nothing.
	read   []unix.Iovec
	n      int
	err    error
	waiter func(fd uintptr) bool

	once sync.Once
}

// NewTap makes a wire of an open tap device, which it owns from then on unless
// it fails. It sets the size of the frame header; on Linux the tap must have
// been made with IFF_VNET_HDR.
func NewTap(f *os.File) (Backend, error) {
	b, err := newFile(f)
	if err != nil {
		return nil, fmt.Errorf("virtio net: tap %s: %w", f.Name(), err)
	}
	b.tap = true
	if b.can, err = b.setup(); err != nil {
		return nil, fmt.Errorf("virtio net: tap %s: %w", f.Name(), errors.Join(err, b.Close()))
	}
	return b, nil
}

// NewSocket makes a wire of one end of a socketpair that keeps messages apart
// (SOCK_SEQPACKET or SOCK_DGRAM), which it owns from then on unless it fails.
// At the other end are frames with header too. Both ends must agree on offloads;
// can says what they do.
func NewSocket(f *os.File, can Offload) (Backend, error) {
	b, err := newFile(f)
	if err != nil {
		return nil, fmt.Errorf("virtio net: socket: %w", err)
	}
	b.can = can
	return b, nil
}

// newFile makes sure that the runtime's poller serves the descriptor, for which
// it may have to wrap a duplicate.
func newFile(f *os.File) (*file, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	old := f
	if f.SetReadDeadline(time.Time{}) != nil {
		var dup int
		var derr error
		if err := rc.Control(func(fd uintptr) {
			if dup, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); derr == nil {
				derr = unix.SetNonblock(dup, true)
			}
		}); err != nil {
			return nil, err
		}
		if derr != nil {
			return nil, derr
		}
		f = os.NewFile(uintptr(dup), old.Name())
		err := f.SetReadDeadline(time.Time{})
		if err == nil {
			rc, err = f.SyscallConn()
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("descriptor cannot be waited for: %w", err)
		}
	}
	b := &file{f: f, rc: rc}
	b.waiter = func(fd uintptr) bool {
		b.n, b.err = readv(int(fd), b.read)
		return b.err != unix.EAGAIN
	}
	if err := rc.Control(func(fd uintptr) { b.fd = int(fd) }); err != nil {
		return nil, err
	}
	if f != old {
		old.Close()
	}
	return b, nil
}

func (b *file) Offloads() Offload { return b.can }

func (b *file) SetOffload(o Offload) error {
	if !b.tap {
		return nil
	}
	if err := b.setOffload(o & b.can); err != nil {
		return fmt.Errorf("virtio net: tap %s: offload %#x: %w", b.f.Name(), o, err)
	}
	return nil
}

func (b *file) ReadV(bufs [][]byte, wait bool) (int, error) {
	b.read = vectors(b.read[:0], bufs)
	b.n, b.err = readv(b.fd, b.read)
	if b.err == unix.EAGAIN && wait {
		if err := b.rc.Read(b.waiter); err != nil {
			b.n, b.err = 0, err
		}
	}
	if down(b.err) {
		// The interface was taken down or away: the cable is out. It may come back,
		// and no poll tells when.
		if wait {
			time.Sleep(downPause)
		}
		return 0, ErrAgain
	}
	switch {
	case b.err == nil && b.n == 0 && !b.tap:
		return 0, errors.New("socket: the other end is closed")
	case b.err == nil:
		return b.n, nil
	case b.err == unix.EAGAIN || b.err == unix.EINTR || errors.Is(b.err, os.ErrDeadlineExceeded):
		return 0, ErrAgain
	}
	return 0, b.err
}

// downPause is how often an interface that is down is looked at.
const downPause = 100 * time.Millisecond

// down says that err is what a tap answers whose interface is down (FreeBSD) or
// gone (Linux).
func down(err error) bool { return err == unix.EHOSTDOWN || err == unix.EIO }

func (b *file) WriteV(bufs [][]byte) error {
	b.write = vectors(b.write[:0], bufs)
	_, err := writev(b.fd, b.write)
	return err
}

func (b *file) Interrupt() { _ = b.f.SetReadDeadline(time.Unix(1, 0)) }
func (b *file) Rearm()     { _ = b.f.SetReadDeadline(time.Time{}) }

func (b *file) Close() error {
	var err error
	b.once.Do(func() { err = b.f.Close() })
	return err
}

func vectors(iov []unix.Iovec, bufs [][]byte) []unix.Iovec {
	for _, p := range bufs {
		if len(p) == 0 {
			continue
		}
		e := unix.Iovec{Base: &p[0]}
		e.SetLen(len(p))
		iov = append(iov, e)
	}
	return iov
}
