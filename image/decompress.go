// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
)

// kind is what a file's first bytes say that it is.
type kind string

const (
	kindRaw   kind = "raw"
	kindQcow2 kind = "qcow2"
	kindGzip  kind = "gzip"
	kindXZ    kind = "xz"
	kindZstd  kind = "zstd"
)

// headSize is how much of a file detect wants to see.
const headSize = 512

// magics of formats; those with no kind are known, and refused by name.
var magics = []struct {
	at    int
	bytes string
	kind  kind
	name  string
}{
	{0, "QFI\xfb", kindQcow2, ""},
	{0, "\x1f\x8b", kindGzip, ""},
	{0, "\xfd7zXZ\x00", kindXZ, ""},
	{0, "\x28\xb5\x2f\xfd", kindZstd, ""},
	{0, "BZh", "", "bzip2"},
	{0, "PK\x03\x04", "", "a ZIP archive"},
	{0, "7z\xbc\xaf\x27\x1c", "", "a 7-Zip archive"},
	{257, "ustar", "", "a tar archive"},
	{0, "KDMV", "", "VMDK"},
	{0, "# Disk Descriptor", "", "VMDK"},
	{0, "vhdxfile", "", "VHDX"},
	{0, "conectix", "", "VHD"},
	{64, "\x7f\x10\xda\xbe", "", "VDI"},
	{0, "QED\x00", "", "QED"},
	{0, "LUKS\xba\xbe", "", "LUKS, encrypted"},
	{0, "WithoutFreeSpace", "", "Parallels"},
}

// detect tells from the first bytes of a file what it is.
func detect(head []byte) (kind, error) {
	if len(head) == 0 {
		return "", corrupt("the file is empty")
	}
	for _, m := range magics {
		if len(head) >= m.at+len(m.bytes) && string(head[m.at:m.at+len(m.bytes)]) == m.bytes {
			if m.kind == "" {
				return "", refused("it is %s: raw or qcow2, as it is or compressed by gzip, xz or zstd, is wanted", m.name)
			}
			return m.kind, nil
		}
	}
	if text := bytes.ToLower(bytes.TrimSpace(head)); bytes.HasPrefix(text, []byte("<!doctype")) || bytes.HasPrefix(text, []byte("<html")) || bytes.HasPrefix(text, []byte("<?xml")) {
		return "", refused("it is a web page, no image")
	}
	return kindRaw, nil
}

const (
	// The most memory that a stream may ask for as its window: that of xz -9,
	// and of zstd --long=27.
	xzDictionary = 64 << 20
	zstdWindow   = 128 << 20
)

// decompressor reads what is in r, which is compressed as kind says.
func decompressor(k kind, r io.Reader) (io.ReadCloser, error) {
	d, err := openDecompressor(k, r)
	if err != nil {
		return nil, named(k, err)
	}
	return &namedErrors{d, k}, nil
}

func openDecompressor(k kind, r io.Reader) (io.ReadCloser, error) {
	switch k {
	case kindGzip:
		return gzip.NewReader(r)
	case kindXZ:
		z, err := xz.NewReader(r, xzDictionary)
		return io.NopCloser(z), err
	case kindZstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderMaxMemory(zstdWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, refused("compression %q", k)
}

// namedErrors calls whatever goes wrong in a decompressor a corrupt image, but
// for the errors of the file below it.
type namedErrors struct {
	io.ReadCloser
	kind kind
}

func (n *namedErrors) Read(p []byte) (c int, err error) {
	defer func() {
		// A decoder that stumbles over hostile input must not take the host
		// down.
		if v := recover(); v != nil {
			c, err = 0, corrupt("%s: the decoder failed: %v", n.kind, v)
		}
	}()
	if c, err = n.ReadCloser.Read(p); err != nil && err != io.EOF {
		err = named(n.kind, err)
	}
	return c, err
}

func named(k kind, err error) error {
	var below *sourceError
	switch {
	case errors.As(err, &below):
		return err
	case errors.Is(err, xz.ErrMemlimit) || errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return fmt.Errorf("%w: %s: its window needs too much memory: %w", ErrTooLarge, k, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrCorrupt, k, err)
}

// sourceError is an error of reading the source itself, or of its context.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

type sourceReader struct{ r io.Reader }

func (s sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = &sourceError{err}
	}
	return n, err
}
