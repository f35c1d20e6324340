// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// reflink shares src's blocks with dst by copy_file_range(2), which FreeBSD 15 can tell
// not to copy instead. On ZFS the pool must have the feature block_cloning and
// vfs.zfs.bclone_enabled must be on, as it is by default in 15; blocks that are not on
// disk yet are waited for (vfs.zfs.bclone_wait_dirty).
func reflink(ctx context.Context, dst, src *os.File, size int64) error {
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := copyFileRange(dst, src, off, min(size-off, copyChunk), copyFileRangeClone)
		if errors.Is(err, errors.ErrUnsupported) {
			return err // what was shared is copied over
		}
		if err != nil {
			return fmt.Errorf("share blocks at %d: %w", off, err)
		}
		off += n
	}
	return nil
}

// copyPiece makes n bytes of dst the same as src's. FreeBSD 14's ZFS shares blocks here
// if vfs.zfs.bclone_enabled is on, which it is not by default; they are on disk since
// src was asked for its holes.
func copyPiece(dst, src *os.File, off, n int64) error {
	for n > 0 {
		m, err := copyFileRange(dst, src, off, n, 0)
		if errors.Is(err, errors.ErrUnsupported) {
			_, err = io.CopyN(io.NewOffsetWriter(dst, off), io.NewSectionReader(src, off, n), n)
			return err
		}
		if err != nil {
			return err
		}
		off, n = off+m, n-m
	}
	return nil
}

// copyFileRange is copy_file_range(2) with both files at off. What the kernel cannot do
// with these two files, or not now, is errors.ErrUnsupported: FreeBSD 14's ZFS has such
// answers also where it is free to copy. Package os is not left to call it: it goes by
// the kernel's name, and has 14's answers for errors.
func copyFileRange(dst, src *os.File, off, n int64, flags uintptr) (int64, error) {
	for {
		for _, f := range []*os.File{dst, src} {
			if _, err := f.Seek(off, io.SeekStart); err != nil {
				return 0, err
			}
		}
		m, _, errno := unix.Syscall6(sysCopyFileRange, src.Fd(), 0, dst.Fd(), 0, uintptr(n), flags)
		switch {
		case errno == unix.EINTR:
			continue
		case errno == 0 && m == 0:
			return 0, io.ErrUnexpectedEOF
		case errno == 0:
			return int64(m), nil
		}
		err := os.NewSyscallError("copy_file_range", errno)
		switch errno {
		case unix.EOPNOTSUPP, unix.EINVAL, unix.EXDEV, unix.ENOSYS, unix.EAGAIN:
			err = fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
		}
		return 0, err
	}
}
