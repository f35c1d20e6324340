// SPDX-License-Identifier: BSD-2-Clause

package cpio

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// File types and permission bits of an Entry's mode, as in stat(2).
const (
	TypeDir     = 0o040000
	TypeChar    = 0o020000
	TypeRegular = 0o100000
	TypeSymlink = 0o120000
)

const (
	magic   = "070701"
	trailer = "TRAILER!!!"
)

// An Entry describes one file. Size counts the bytes that follow: a regular
// file's content or a link's target.
type Entry struct {
	Name         string // no leading slash
	Mode         uint32 // type and permission bits
	Size         int64
	Major, Minor uint32 // of a device node
}

// A Writer writes one archive. Entries belong to root and carry no time, so
// that equal input gives equal bytes.
type Writer struct {
	w      io.Writer
	offset int64
	left   int64 // bytes of the current entry still to come
	inode  uint32
	closed bool
}

// NewWriter returns a Writer that writes to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// WriteHeader ends the entry before and begins the next.
func (w *Writer) WriteHeader(e Entry) error {
	switch {
	case w.closed:
		return errors.New("cpio: write header: archive is closed")
	case e.Name == "" || strings.HasPrefix(e.Name, "/") || strings.ContainsRune(e.Name, 0):
		return fmt.Errorf("cpio: write header: bad name %q", e.Name)
	case e.Name == trailer:
		return fmt.Errorf("cpio: write header: %q is the end mark", e.Name)
	case e.Size < 0 || e.Size > math.MaxUint32:
		return fmt.Errorf("cpio: write header %q: size %d does not fit 32 bits", e.Name, e.Size)
	}
	return w.header(e)
}

func (w *Writer) header(e Entry) error {
	if w.left != 0 {
		return fmt.Errorf("cpio: entry is %d bytes short", w.left)
	}
	if err := w.pad(); err != nil {
		return err
	}
	w.inode++
	links := 1
	if e.Mode&0o170000 == TypeDir {
		links = 2
	}
	h := fmt.Sprintf("%s%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		magic, w.inode, e.Mode, 0, 0, links, 0, e.Size, 0, 0, e.Major, e.Minor, len(e.Name)+1, 0, e.Name)
	if err := w.raw([]byte(h)); err != nil {
		return err
	}
	w.left = e.Size
	return w.pad()
}

// Write writes content of the current entry.
func (w *Writer) Write(p []byte) (int, error) {
	if int64(len(p)) > w.left {
		return 0, fmt.Errorf("cpio: %d bytes more than the entry's size", int64(len(p))-w.left)
	}
	w.left -= int64(len(p))
	if err := w.raw(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close ends the archive; it does not close the writer below.
func (w *Writer) Close() error {
	if w.closed {
		return nil
	}
	if err := w.header(Entry{Name: trailer}); err != nil {
		return err
	}
	w.closed = true
	return nil
}

// Dir adds a directory.
func (w *Writer) Dir(name string, perm uint32) error {
	return w.WriteHeader(Entry{Name: name, Mode: TypeDir | perm})
}

// File adds a regular file.
func (w *Writer) File(name string, perm uint32, content []byte) error {
	if err := w.WriteHeader(Entry{Name: name, Mode: TypeRegular | perm, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// Symlink adds a symbolic link.
func (w *Writer) Symlink(name, target string) error {
	if err := w.WriteHeader(Entry{Name: name, Mode: TypeSymlink | 0o777, Size: int64(len(target))}); err != nil {
		return err
	}
	_, err := io.WriteString(w, target)
	return err
}

// CharDevice adds a character device node.
func (w *Writer) CharDevice(name string, perm, major, minor uint32) error {
	return w.WriteHeader(Entry{Name: name, Mode: TypeChar | perm, Major: major, Minor: minor})
}

// pad aligns to four bytes, as every header and every content must be.
func (w *Writer) pad() error {
	if n := -w.offset & 3; n != 0 {
		return w.raw(make([]byte, n))
	}
	return nil
}

func (w *Writer) raw(p []byte) error {
	n, err := w.w.Write(p)
	w.offset += int64(n)
	if err != nil {
		return fmt.Errorf("cpio: write: %w", err)
	}
	return nil
}
