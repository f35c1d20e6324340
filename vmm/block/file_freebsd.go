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

// page is what holes are made of. The kernel is never asked for a part of one:
// tmpfs of FreeBSD 14 and 15 goes round for ever over a part that begins its page
// (tmpfs_reg_punch_hole), and no signal ends that.
const page = 4096

func wholePages(off, n int64) (from, to int64) {
	return (off + page - 1) &^ (page - 1), (off + n) &^ (page - 1)
}

// punch leaves what is no whole page as it is.
func (b *File) punch(off, n int64) error {
	if b.dev {
		return diskDelete(b.fd, off, n)
	}
	if from, to := wholePages(off, n); from < to {
		return deallocate(b.fd, from, to-from)
	}
	return nil
}

// zeroRange: a hole of fspacectl(2) reads as zeroes; a disk promises nothing of
// what was deleted.
func (b *File) zeroRange(off, n int64, _ bool) error {
	if b.dev {
		return errors.ErrUnsupported
	}
	from, to := wholePages(off, n)
	if from >= to {
		return b.writeZeroes(off, n)
	}
	if err := deallocate(b.fd, from, to-from); err != nil {
		return err
	}
	if err := b.writeZeroes(off, from-off); err != nil {
		return err
	}
	return b.writeZeroes(to, off+n-to)
}
