// SPDX-License-Identifier: BSD-2-Clause

package block

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func (b *File) sync() error { return unix.Fdatasync(b.fd) }

func (b *File) probeDevice() error {
	size, err := blkSize(b.fd)
	if err != nil {
		return fmt.Errorf("size: %w", err)
	}
	logical, err := unix.IoctlGetInt(b.fd, unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("sector size: %w", err)
	}
	physical, err := unix.IoctlGetInt(b.fd, unix.BLKPBSZGET)
	if err != nil {
		return fmt.Errorf("physical sector size: %w", err)
	}
	b.geo.Size, b.geo.Logical, b.geo.Physical = size, logical, max(logical, physical)
	return nil
}

func (b *File) punch(off, n int64) error {
	if b.dev {
		return blkRange(b.fd, unix.BLKDISCARD, off, n)
	}
	return unix.Fallocate(b.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func (b *File) zeroRange(off, n int64, unmap bool) error {
	switch {
	case b.dev:
		return blkRange(b.fd, unix.BLKZEROOUT, off, n)
	case unmap:
		return unix.Fallocate(b.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	}
	return unix.Fallocate(b.fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}
