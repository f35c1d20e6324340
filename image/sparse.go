// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// block is the grain of holes: what file systems and processors page in.
const block = 4096

var zeroBlock [block]byte

// sparseWriter writes a file from front to end and leaves out blocks of zeros.
// The file must be empty.
type sparseWriter struct {
	f     *os.File
	at    int64 // where the next byte goes
	data  int64 // bytes that were not left out
	limit int64 // of at
	// before is asked before data is written, with the sum up to then.
	before func(data int64) error
}

// Write takes whole blocks but for the last one.
func (w *sparseWriter) Write(p []byte) (int, error) {
	if w.at+int64(len(p)) > w.limit {
		return 0, fmt.Errorf("%w: more than %d bytes when decompressed", ErrTooLarge, w.limit)
	}
	for n := 0; n < len(p); {
		run, zero := nextRun(p[n:])
		if !zero {
			if err := w.before(w.data + int64(run)); err != nil {
				return n, err
			}
			if _, err := w.f.WriteAt(p[n:n+run], w.at+int64(n)); err != nil {
				return n, spaceError(err)
			}
			w.data += int64(run)
		}
		n += run
	}
	w.at += int64(len(p))
	return len(p), nil
}

// nextRun is how many bytes from the front of p are blocks of zeros, or blocks
// that are not.
func nextRun(p []byte) (n int, zero bool) {
	isZero := func(at int) bool {
		b := p[at:min(at+block, len(p))]
		return bytes.Equal(b, zeroBlock[:len(b)])
	}
	zero = isZero(0)
	for n = min(block, len(p)); n < len(p) && isZero(n) == zero; {
		n = min(n+block, len(p))
	}
	return n, zero
}

// readFrom copies r to its end, block by block.
func (w *sparseWriter) readFrom(ctx context.Context, r io.Reader) error {
	buf := make([]byte, 1<<20)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) && n > 0 && n < len(buf) && isPlainEOF(err):
			return nil
		case err != nil:
			return err
		}
	}
}

// isPlainEOF tells io.ReadFull's own error from one that a decoder wrapped.
func isPlainEOF(err error) bool { return err == io.ErrUnexpectedEOF }

// finish gives the file its size, whole sectors, and syncs it.
func (w *sparseWriter) finish(size int64) error {
	if err := w.f.Truncate((size + sectorSize - 1) &^ (sectorSize - 1)); err != nil {
		return spaceError(err)
	}
	return spaceError(w.f.Sync())
}

const sectorSize = 512

func spaceError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}
