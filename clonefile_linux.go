// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// reflink shares src's blocks with dst: FICLONE of ioctl_ficlone(2). ZFS answers
// EAGAIN as long as a block is not on disk yet (zfs_bclone_wait_dirty is off);
// to be asked for holes, as is done before a copy, has it write them, and then
// copy_file_range(2) clones them.
func reflink(dst, src *os.File) error {
	err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	switch err {
	case unix.EOPNOTSUPP, unix.EINVAL, unix.ENOTTY, unix.EXDEV, unix.ENOSYS, unix.EAGAIN:
		return fmt.Errorf("FICLONE: %w: %w", errors.ErrUnsupported, err)
	}
	return os.NewSyscallError("ioctl FICLONE", err)
}
