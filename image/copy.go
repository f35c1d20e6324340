// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyChunk bounds what is done between two looks at the context.
const copyChunk = 16 << 20

// eachData calls do for every stretch of f below size that is no hole.
func eachData(f *os.File, size int64, do func(at, n int64) error) error {
	for at := int64(0); at < size; {
		start, err := f.Seek(at, unix.SEEK_DATA)
		switch {
		case errors.Is(err, syscall.ENXIO): // only a hole is left
			return nil
		case errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTTY): // a file system without holes
			return do(at, size-at)
		case err != nil:
			return fmt.Errorf("SEEK_DATA: %w", err)
		}
		if start >= size {
			return nil
		}
		end, err := f.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("SEEK_HOLE: %w", err)
		}
		if end = min(end, size); end <= start {
			return nil // the file is being cut short
		}
		if err := do(start, end-start); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// copySparse copies what is below size of src to the empty file dst, and leaves
// out holes and blocks of zeros. It does not set dst's size.
func copySparse(ctx context.Context, dst, src *os.File, size int64, progress func(done int64)) error {
	w := &sparseWriter{f: dst, limit: size, before: func(int64) error { return nil }}
	buf := make([]byte, 1<<20)
	return eachData(src, size, func(at, n int64) error {
		for end := at + n; at < end; {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			p := buf[:min(int64(len(buf)), end-at)]
			if c, err := src.ReadAt(p, at); c < len(p) {
				return fmt.Errorf("read at %d: %w", at, errors.Join(err, io.ErrUnexpectedEOF))
			}
			w.at = at
			if _, err := w.Write(p); err != nil {
				return err
			}
			at += int64(len(p))
			progress(at)
		}
		return nil
	})
}

// copyData copies what is below size of src by copy_file_range(2), so that a
// file system that can share blocks does; os.File falls back to reading and
// writing. Holes stay holes.
func copyData(ctx context.Context, dst, src *os.File, size int64) error {
	return eachData(src, size, func(at, n int64) error {
		if _, err := src.Seek(at, io.SeekStart); err != nil {
			return err
		}
		if _, err := dst.Seek(at, io.SeekStart); err != nil {
			return err
		}
		for n > 0 {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			c, err := io.CopyN(dst, src, min(n, copyChunk))
			if err != nil {
				return spaceError(fmt.Errorf("copy at %d: %w", at, err))
			}
			at, n = at+c, n-c
		}
		return nil
	})
}

// CopyTo writes the image onto dst, from its first byte: a block device, such
// as a zvol, that is at least as large and reads as zeros, or an empty file. It
// syncs dst.
func (w *Warmed) CopyTo(ctx context.Context, dst *os.File) error {
	src, err := os.Open(w.Path)
	if err != nil {
		return fmt.Errorf("image %q: %w", w.Name, err)
	}
	defer src.Close()
	if err := copyData(ctx, dst, src, w.VirtualSize); err != nil {
		return fmt.Errorf("image %q: copy to %s: %w", w.Name, dst.Name(), err)
	}
	if err := dst.Sync(); err != nil {
		return fmt.Errorf("image %q: sync %s: %w", w.Name, dst.Name(), err)
	}
	return nil
}

// Clone makes a file dst of size bytes (0: the image's size) that begins with
// the image: by sharing its blocks where the file system can, else by copying
// what is no hole. dst appears whole or not at all; if it is there already, the
// error is ErrExists.
func (w *Warmed) Clone(ctx context.Context, dst string, size int64) (err error) {
	if size == 0 {
		size = w.VirtualSize
	}
	if size < w.VirtualSize {
		return fmt.Errorf("image %q: %w: a disk of %d bytes cannot hold an image of %d", w.Name, ErrTooSmall, size, w.VirtualSize)
	}
	if _, err := os.Lstat(dst); err == nil {
		return fmt.Errorf("image %q: clone to %s: %w", w.Name, dst, ErrExists)
	}
	src, err := os.Open(w.Path)
	if err != nil {
		return fmt.Errorf("image %q: %w", w.Name, err)
	}
	defer src.Close()
	tmp, err := os.CreateTemp(filepath.Dir(dst), cloneTemp+filepath.Base(dst)+"+")
	if err != nil {
		return fmt.Errorf("image %q: clone: %w", w.Name, err)
	}
	defer func() {
		// Linked under its own name by now, or to be gone.
		err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name()))
	}()
	if err := w.cloneInto(ctx, tmp, src, size); err != nil {
		return fmt.Errorf("image %q: clone to %s: %w", w.Name, dst, err)
	}
	// A link, unlike a rename, does not replace what came there meanwhile.
	if err := os.Link(tmp.Name(), dst); err != nil {
		if errors.Is(err, syscall.EEXIST) {
			err = fmt.Errorf("%w: %w", ErrExists, err)
		}
		return fmt.Errorf("image %q: clone: %w", w.Name, err)
	}
	return syncDir(filepath.Dir(dst))
}

// cloneTemp begins the names of clones in the making.
const cloneTemp = ".clone+"

func (w *Warmed) cloneInto(ctx context.Context, dst, src *os.File, size int64) error {
	if !reflink(dst, src) {
		used, err := allocated(src)
		if err != nil {
			return err
		}
		if err := needSpace(dst.Name(), min(used, w.VirtualSize), 0); err != nil {
			return err
		}
		if err := copyData(ctx, dst, src, w.VirtualSize); err != nil {
			return err
		}
	}
	if err := dst.Truncate(size); err != nil {
		return spaceError(err)
	}
	return spaceError(dst.Sync())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// allocated is how many bytes of a file are on the disk.
func allocated(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return st.Size(), nil
	}
	return s.Blocks * 512, nil // st_blocks is in units of 512 bytes, stat(2)
}

// needSpace answers ErrNoSpace if the file system of path has less than need
// bytes and the reserve.
func needSpace(path string, need, reserve int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &st); err != nil {
		return fmt.Errorf("statfs %s: %w", filepath.Dir(path), err)
	}
	free := int64(st.Bavail) * int64(st.Bsize)
	if need > free-reserve {
		return fmt.Errorf("%w: %s has %d bytes free, %d and a reserve of %d are needed", ErrNoSpace, filepath.Dir(path), free, need, reserve)
	}
	return nil
}
