// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// reflink shares src's blocks with dst: FICLONE of ioctl_ficlone(2). ZFS answers
// EAGAIN as long as a block is not on disk yet (zfs_bclone_wait_dirty is off);
// to be asked for holes, as is done before a copy, has it write them, and then
// copy_file_range(2) clones them.
func reflink(_ context.Context, dst, src *os.File, _ int64) error {
	err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	switch err {
	case unix.EOPNOTSUPP, unix.EINVAL, unix.ENOTTY, unix.EXDEV, unix.ENOSYS, unix.EAGAIN:
		return fmt.Errorf("FICLONE: %w: %w", errors.ErrUnsupported, err)
	}
	return os.NewSyscallError("ioctl FICLONE", err)
}

// copyPiece makes n bytes of dst the same as src's.
func copyPiece(dst, src *os.File, off, n int64) error {
	if _, err := dst.Seek(off, io.SeekStart); err != nil {
		return err
	}
	if _, err := src.Seek(off, io.SeekStart); err != nil {
		return err
	}
	// os.File copies by copy_file_range(2) where it can.
	_, err := io.CopyN(dst, src, n)
	return err
}
