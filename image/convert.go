// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// converter makes sparse raw files of images.
type converter struct {
	limits Limits
	// space answers ErrNoSpace where path's file system cannot take need more
	// bytes.
	space func(path string, need int64) error
}

// convert writes the image in src as raw into out, an empty file. tmp makes a
// file for what is between the two. Progress counts bytes of src or, for qcow2,
// of the disk.
func (c *converter) convert(ctx context.Context, src, out *os.File, format Format, tmp func() (*os.File, error), progress func(done, total int64)) error {
	st, err := src.Stat()
	if err != nil {
		return err
	}
	size := st.Size()
	k, err := sniff(io.NewSectionReader(src, 0, size))
	if err != nil {
		return err
	}
	switch {
	case k == kindRaw && format == FormatQcow2:
		return corrupt("it is no qcow2 image")
	case k == kindQcow2 && format != FormatRaw:
		return c.qcow2(ctx, src, size, out, progress)
	case k == kindRaw || k == kindQcow2:
		return c.raw(ctx, src, size, out, progress)
	}
	return c.compressed(ctx, src, size, k, out, format, tmp, progress)
}

func sniff(r io.Reader) (kind, error) {
	head := make([]byte, headSize)
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return "", err
	}
	return detect(head[:n])
}

func (c *converter) writer(out *os.File, packed int64) *sparseWriter {
	checked := int64(0)
	return &sparseWriter{f: out, limit: c.limits.VirtualSize, before: func(data int64) error {
		if packed > 0 && data > c.limits.RatioFloor && data/packed >= c.limits.Ratio {
			return fmt.Errorf("%w: it grows to more than %d times the %d bytes that it is compressed to", ErrTooLarge, c.limits.Ratio, packed)
		}
		if data-checked < 64<<20 && checked > 0 {
			return nil
		}
		checked = data
		return c.space(out.Name(), 64<<20)
	}}
}

func (c *converter) raw(ctx context.Context, src *os.File, size int64, out *os.File, progress func(done, total int64)) error {
	if size > c.limits.VirtualSize {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, size, c.limits.VirtualSize)
	}
	used, err := allocated(src)
	if err != nil {
		return err
	}
	if err := c.space(out.Name(), min(used, size)); err != nil {
		return err
	}
	if err := copySparse(ctx, out, src, size, func(done int64) { progress(done, size) }); err != nil {
		return err
	}
	return (&sparseWriter{f: out}).finish(size)
}

// compressed decompresses to out, or, if a qcow2 image comes out, to a
// temporary file first: that format is not read from front to end.
func (c *converter) compressed(ctx context.Context, src *os.File, size int64, k kind, out *os.File, format Format, tmp func() (*os.File, error), progress func(done, total int64)) (err error) {
	in := &watchedReader{ctx: ctx, r: io.NewSectionReader(src, 0, size), progress: func(done int64) { progress(done, size) }}
	d, err := decompressor(k, sourceReader{in})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	head := make([]byte, headSize)
	n, err := io.ReadFull(d, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	inner := kindRaw
	if format != FormatRaw {
		if inner, err = detect(head[:n]); err != nil {
			return err
		}
	}
	all := io.MultiReader(bytes.NewReader(head[:n]), d)
	switch {
	case inner == kindRaw && format == FormatQcow2:
		return corrupt("it is no qcow2 image")
	case inner == kindRaw:
		w := c.writer(out, size)
		if err := w.readFrom(ctx, all); err != nil {
			return err
		}
		return w.finish(w.at)
	case inner != kindQcow2:
		return refused("it is compressed twice, by %s and %s", k, inner)
	}
	f, err := tmp()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	w := c.writer(f, size)
	if err := w.readFrom(ctx, all); err != nil {
		return err
	}
	if err := f.Truncate(w.at); err != nil {
		return err
	}
	return c.qcow2(ctx, f, w.at, out, progress)
}

func (c *converter) qcow2(ctx context.Context, src io.ReaderAt, size int64, out *os.File, progress func(done, total int64)) (err error) {
	defer func() {
		// The reader is somebody else's and the image too: neither may take
		// the host down.
		if v := recover(); v != nil {
			err = corrupt("qcow2: the reader failed: %v", v)
		}
	}()
	q, err := checkQcow2(src, size, c.limits.VirtualSize)
	if err != nil {
		return err
	}
	if q.packed > c.limits.RatioFloor && q.packed/size >= c.limits.Ratio {
		return fmt.Errorf("%w: %d bytes of compressed clusters in a file of %d", ErrTooLarge, q.packed, size)
	}
	// What compressed clusters become cannot be known before, what the others
	// hold can.
	if err := c.space(out.Name(), q.data); err != nil {
		return err
	}
	img, err := openQcow2(src, q)
	if err != nil {
		return err
	}
	w := c.writer(out, 0)
	buf := make([]byte, max(1<<20, q.cluster))
	for at := int64(0); at < q.size; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		ext, err := img.Extent(at, min(1<<30, q.size-at))
		if err != nil {
			return fmt.Errorf("%w: qcow2: at %d: %w", ErrCorrupt, at, err)
		}
		if ext.Start != at || ext.Length <= 0 || ext.Length > q.size-at {
			return corrupt("qcow2: at %d: an extent of %d bytes at %d", at, ext.Length, ext.Start)
		}
		if ext.Zero || !ext.Allocated {
			at += ext.Length
			w.at = at
			continue
		}
		for end := at + ext.Length; at < end; {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			p := buf[:min(int64(len(buf)), end-at)]
			if n, err := img.ReadAt(p, at); n < len(p) {
				return fmt.Errorf("%w: qcow2: at %d: %d bytes of %d: %w", ErrCorrupt, at, n, len(p), err)
			}
			if _, err := w.Write(p); err != nil {
				return err
			}
			at += int64(len(p))
			progress(at, q.size)
		}
	}
	return w.finish(q.size)
}
