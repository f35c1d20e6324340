// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/skepvm/skep/zfs/internal/zcmd"
)

// blkZNAME is BLKZNAME, _IOR(0x12, 125, char[256]) (include/sys/fs/zfs.h).
const blkZNAME = 0x8100127d

// blkZname asks a zvol's node for the volume's name.
func blkZname(f *os.File) (string, error) {
	buf := new([256]byte)
	c, err := f.SyscallConn()
	if err != nil {
		return "", err
	}
	var errno syscall.Errno
	if err := c.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, blkZNAME, uintptr(unsafe.Pointer(buf)))
	}); err != nil {
		return "", err
	}
	runtime.KeepAlive(buf)
	if errno != 0 {
		return "", errno
	}
	return zcmd.String(buf[:]), nil
}
