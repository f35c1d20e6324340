// SPDX-License-Identifier: BSD-2-Clause

package zfs

import "golang.org/x/sys/unix"

const snapDirInode = 2 // ZFSCTL_INO_SNAPDIR, which no file has

// has reports whether what is open is in this mount's file system.
func (m mountPoint) has(fd int, _ *unix.Stat_t) bool {
	var st unix.Statfs_t
	// Who is not root is told 0 for all.
	return m.device != 0 && unix.Fstatfs(fd, &st) == nil && device(&st) == m.device
}
