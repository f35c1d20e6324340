// SPDX-License-Identifier: BSD-2-Clause

package block

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// File is a Backend on a raw file or block device.
type File struct {
	f   *os.File
	fd  int
	dev bool // a block device (Linux) or disk device (FreeBSD)
	geo Geometry

	nowait, hole, zero atomic.Bool // what the file system is not known to refuse
	iovecs             sync.Pool   // *[]unix.Iovec
	bounces            sync.Pool   // *[bounceSize]byte
	once               sync.Once   // of Close
}

// OpenFile opens path for a disk.
func OpenFile(path string, readOnly bool) (*File, error) {
	flag := os.O_RDWR
	if readOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	b, err := NewFile(f, readOnly)
	if err != nil {
		f.Close()
		return nil, err
	}
	return b, nil
}

// NewFile makes a backend of an open file, which it owns from then on unless it
// fails. The size is what the file has now, less a tail that is not a whole
// sector.
func NewFile(f *os.File, readOnly bool) (*File, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	b := &File{f: f, fd: int(f.Fd())}
	b.geo = Geometry{Size: st.Size(), Logical: 512, Physical: 4096, ReadOnly: readOnly}
	switch mode := st.Mode(); {
	case mode.IsRegular():
	case mode&fs.ModeDevice != 0:
		b.dev = true
		if err := b.probeDevice(); err != nil {
			return nil, fmt.Errorf("disk %s: %w", f.Name(), err)
		}
	default:
		return nil, fmt.Errorf("disk %s: neither a file nor a block device (%v)", f.Name(), mode.Type())
	}
	if b.geo.Size &^= 511; b.geo.Size == 0 {
		return nil, fmt.Errorf("disk %s: smaller than a sector", f.Name())
	}
	b.geo.Discard, b.geo.Zero = !readOnly, !readOnly
	b.nowait.Store(true)
	b.hole.Store(true)
	b.zero.Store(true)
	b.iovecs.New = func() any { v := make([]unix.Iovec, 0, maxIovecs); return &v }
	return b, nil
}

const (
	maxIovecs  = 1024 // IOV_MAX of both systems
	bounceSize = 64 << 10
)

// Geometry describes the disk.
func (b *File) Geometry() Geometry { return b.geo }

// ReadV reads all of bufs at off.
func (b *File) ReadV(bufs [][]byte, off int64) error {
	if b.ragged(bufs) {
		return b.bounce("read", opRead, bufs, off)
	}
	return b.all("read", opRead, bufs, off)
}

// WriteV writes all of bufs at off.
func (b *File) WriteV(bufs [][]byte, off int64) error {
	if b.geo.ReadOnly {
		return fmt.Errorf("write disk %s: %w", b.f.Name(), fs.ErrPermission)
	}
	if b.ragged(bufs) {
		return b.bounce("write", opWrite, bufs, off)
	}
	return b.all("write", opWrite, bufs, off)
}

// TryReadV reads what is in memory already.
func (b *File) TryReadV(bufs [][]byte, off int64) error {
	if !b.nowait.Load() || len(bufs) > maxIovecs || b.ragged(bufs) {
		return ErrWouldBlock
	}
	want := 0
	for _, p := range bufs {
		want += len(p)
	}
	n, err := b.vector(opTryRead, bufs, off)
	switch {
	case err == nil && n == want:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL):
		b.nowait.Store(false)
	}
	return ErrWouldBlock
}

type op uint8

const (
	opRead op = iota
	opTryRead
	opWrite
)

// ragged says that bufs have pieces which a disk device may refuse: FreeBSD's
// want every piece of a vector to be whole sectors.
func (b *File) ragged(bufs [][]byte) bool {
	if !b.dev {
		return false
	}
	for _, p := range bufs {
		if len(p)%b.geo.Logical != 0 {
			return true
		}
	}
	return false
}

// bounce carries out o through a buffer of our own, piece by piece.
func (b *File) bounce(verb string, o op, bufs [][]byte, off int64) error {
	buf, _ := b.bounces.Get().(*[bounceSize]byte)
	if buf == nil {
		buf = new([bounceSize]byte)
	}
	defer b.bounces.Put(buf)
	total, skip := 0, 0
	for _, p := range bufs {
		total += len(p)
	}
	for total > 0 {
		n := min(total, bounceSize)
		one := [1][]byte{buf[:n]}
		if o == opRead {
			if err := b.all(verb, o, one[:], off); err != nil {
				return err
			}
		}
		for done := 0; done < n; {
			var k int
			if p := bufs[0][skip:]; o == opRead {
				k = copy(p, buf[done:n])
			} else {
				k = copy(buf[done:n], p)
			}
			done, skip = done+k, skip+k
			if skip == len(bufs[0]) {
				bufs, skip = bufs[1:], 0
			}
		}
		if o == opWrite {
			if err := b.all(verb, o, one[:], off); err != nil {
				return err
			}
		}
		off, total = off+int64(n), total-n
	}
	return nil
}

// all repeats o until every buffer is done. bufs is not changed.
func (b *File) all(verb string, o op, bufs [][]byte, off int64) error {
	skip := 0 // bytes of bufs[0] that are done
	for len(bufs) > 0 {
		var n int
		var err error
		if skip > 0 || len(bufs) == 1 {
			n, err = b.one(o, bufs[0][skip:], off)
		} else {
			n, err = b.vector(o, bufs[:min(len(bufs), maxIovecs)], off)
		}
		if err == unix.EINTR {
			continue
		}
		if err == nil && n <= 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("%s disk %s at %d: %w", verb, b.f.Name(), off, err)
		}
		off += int64(n)
		for n += skip; len(bufs) > 0 && n >= len(bufs[0]); bufs = bufs[1:] {
			n -= len(bufs[0])
		}
		skip = n
	}
	return nil
}

func (b *File) one(o op, p []byte, off int64) (int, error) {
	if o == opWrite {
		return unix.Pwrite(b.fd, p, off)
	}
	return unix.Pread(b.fd, p, off)
}

func (b *File) vector(o op, bufs [][]byte, off int64) (int, error) {
	v := b.iovecs.Get().(*[]unix.Iovec)
	iov := (*v)[:0]
	for _, p := range bufs {
		if len(p) == 0 {
			continue
		}
		e := unix.Iovec{Base: &p[0]}
		e.SetLen(len(p))
		iov = append(iov, e)
	}
	n, err := vectorIO(o, b.fd, iov, off)
	clear(iov)
	*v = iov
	b.iovecs.Put(v)
	return n, err
}

// Flush makes what was written durable.
func (b *File) Flush() error {
	if b.geo.ReadOnly {
		return nil
	}
	if err := b.sync(); err != nil {
		return fmt.Errorf("flush disk %s: %w", b.f.Name(), err)
	}
	return nil
}

// Discard gives a range back. A file system that cannot is no error: it is a
// hint.
func (b *File) Discard(off, n int64) error {
	if b.geo.ReadOnly {
		return fmt.Errorf("discard on disk %s: %w", b.f.Name(), fs.ErrPermission)
	}
	if n <= 0 || !b.hole.Load() {
		return nil
	}
	switch err := b.punch(off, n); {
	case unsupported(err):
		b.hole.Store(false)
	case err != nil:
		return fmt.Errorf("discard %d bytes of disk %s at %d: %w", n, b.f.Name(), off, err)
	}
	return nil
}

// WriteZeroes zeroes a range by the cheapest way that the system has.
func (b *File) WriteZeroes(off, n int64, unmap bool) error {
	if b.geo.ReadOnly {
		return fmt.Errorf("zero disk %s: %w", b.f.Name(), fs.ErrPermission)
	}
	if n <= 0 {
		return nil
	}
	if b.zero.Load() {
		err := b.zeroRange(off, n, unmap)
		if err == nil {
			return nil
		}
		if !unsupported(err) {
			return fmt.Errorf("zero %d bytes of disk %s at %d: %w", n, b.f.Name(), off, err)
		}
		b.zero.Store(false)
	}
	return b.writeZeroes(off, n)
}

func (b *File) writeZeroes(off, n int64) error {
	for n > 0 {
		k := min(n, int64(len(zeroes)))
		if err := b.all("zero", opWrite, [][]byte{zeroes[:k]}, off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

var zeroes = make([]byte, 256<<10) // never written

func unsupported(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENODEV)
}

// Close closes the file. Twice does no harm.
func (b *File) Close() (err error) {
	b.once.Do(func() { err = b.f.Close() })
	return err
}
