// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"
)

// Checksum is "sha256:" or "sha512:" and hexadecimal digits, or "none", or
// empty. See Image.Checksum.
type Checksum string

// NoChecksum says that a remote file is taken on trust.
const NoChecksum Checksum = "none"

func (c Checksum) set() bool { return c != "" && c != NoChecksum }

func (c Checksum) check() error {
	if !c.set() {
		return nil
	}
	_, _, err := c.parse()
	return err
}

func (c Checksum) parse() (hash.Hash, []byte, error) {
	kind, digits, _ := strings.Cut(string(c), ":")
	var h hash.Hash
	switch kind {
	case "sha256":
		h = sha256.New()
	case "sha512":
		h = sha512.New()
	default:
		return nil, nil, invalid("checksum %q: sha256:DIGITS or sha512:DIGITS is wanted", clip(string(c)))
	}
	want, err := hex.DecodeString(digits)
	if err != nil || len(want) != h.Size() {
		return nil, nil, invalid("checksum %q: %d hexadecimal digits are wanted", clip(string(c)), 2*h.Size())
	}
	return h, want, nil
}

// verify reads r to its end, and compares.
func (c Checksum) verify(ctx context.Context, r io.Reader, progress func(done int64)) error {
	if !c.set() {
		return nil
	}
	h, want, err := c.parse()
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(h, &watchedReader{ctx: ctx, r: r, progress: progress}, make([]byte, 1<<20)); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if got := h.Sum(nil); subtle.ConstantTimeCompare(got, want) != 1 {
		kind, _, _ := strings.Cut(string(c), ":")
		return fmt.Errorf("%w: it is %s:%x, not %s", ErrChecksum, kind, got, c)
	}
	return nil
}

// watchedReader ends when its context does, and tells how far it is.
type watchedReader struct {
	ctx      context.Context
	r        io.Reader
	done     int64
	progress func(done int64)
}

func (w *watchedReader) Read(p []byte) (int, error) {
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	n, err := w.r.Read(p)
	w.done += int64(n)
	if n > 0 && w.progress != nil {
		w.progress(w.done)
	}
	return n, err
}

// clip keeps a hostile string from filling an error message.
func clip(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
