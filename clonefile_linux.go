// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// reflink shares src's blocks with dst: FICLONE of ioctl_ficlone(2).
func reflink(dst, src *os.File) error {
	err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("FICLONE: %w: %w", errors.ErrUnsupported, err)
	}
	return os.NewSyscallError("ioctl FICLONE", err)
}
