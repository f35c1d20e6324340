// SPDX-License-Identifier: BSD-2-Clause

package zcmd

// Cmd is zfs_cmd_t with FreeBSD's path length of 1024.
type Cmd = layout[[1024]byte, [2048]byte]

// iocparm is zfs_iocparm_t, what the ioctl itself carries.
type iocparm struct {
	Version uint32
	_       uint32
	Cmd     uint64
	Size    uint64
}

// sigset is sigset_t.
type sigset [4]uint32

const (
	requestBase   = 0xc0185a00 // _IOWR('Z', nr, struct zfs_iocparm)
	iocparmOpenZF = 15         // ZFS_IOCVER_OZFS, sysctl vfs.zfs.version.ioctl
	sigSetmask    = 3          // SIG_SETMASK
)
