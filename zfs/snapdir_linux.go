// SPDX-License-Identifier: BSD-2-Clause

package zfs

import "golang.org/x/sys/unix"

const snapDirInode = 0xFFFFFFFFFFFD // ZFSCTL_INO_SNAPDIR, which no file has

// has reports whether what is open is in this mount's file system.
func (m mountPoint) has(_ int, st *unix.Stat_t) bool { return st.Dev == m.device }
