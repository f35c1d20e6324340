// SPDX-License-Identifier: BSD-2-Clause

package block

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

func (b *File) sync() error {
	if b.dev {
		if err := diskFlush(b.fd); !unsupported(err) {
			return err
		}
	}
	for {
		if err := unix.Fsync(b.fd); err != unix.EINTR {
			return err
		}
	}
}

func (b *File) probeDevice() error {
	size, sector, stripe, err := diskGeometry(b.fd)
	if err != nil {
		return fmt.Errorf("media size: %w", err)
	}
	b.geo.Size, b.geo.Logical, b.geo.Physical = size, sector, sector
	if stripe > int64(sector) && stripe <= 1<<20 && stripe&(stripe-1) == 0 {
		b.geo.Physical = int(stripe)
	}
	return nil
}

func (b *File) punch(off, n int64) error {
	if b.dev {
		return diskDelete(b.fd, off, n)
	}
	return deallocate(b.fd, off, n)
}

// zeroRange: a hole of fspacectl(2) reads as zeroes; a disk promises nothing of
// what was deleted.
func (b *File) zeroRange(off, n int64, _ bool) error {
	if b.dev {
		return errors.ErrUnsupported
	}
	return deallocate(b.fd, off, n)
}
