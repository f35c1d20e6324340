// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// copyChunk is how much is copied between two looks at the context. It is whole blocks of any file system.
const copyChunk = 64 << 20

// cloneFile makes dst, which is empty, the same as src: by sharing blocks where
// the file system can, else by copying what is not a hole.
func cloneFile(ctx context.Context, dst, src *os.File, size int64) error {
	if err := reflink(ctx, dst, src, size); err == nil {
		return nil
	} else if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if err := dst.Truncate(size); err != nil {
		return err
	}
	for off := int64(0); off < size; {
		data, hole, err := nextData(src, off, size)
		if err != nil {
			return err
		}
		for data < hole {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(hole-data, copyChunk)
			if err := copyPiece(dst, src, data, n); err != nil {
				return fmt.Errorf("copy %d bytes at %d: %w", n, data, err)
			}
			data += n
		}
		off = max(hole, off+1)
	}
	return nil
}

// nextData finds the next piece of src from off on that is no hole, as
// [data, hole); both are size where there is none.
func nextData(src *os.File, off, size int64) (data, hole int64, err error) {
	data, err = src.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size, nil
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) {
		return off, size, nil // this file system knows no holes
	}
	if err != nil {
		return 0, 0, err
	}
	hole, err = src.Seek(data, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	return min(data, size), min(hole, size), nil
}
