// SPDX-License-Identifier: BSD-2-Clause

// Package zcmd carries requests to /dev/zfs: the zfs_cmd structure, the ioctl
// numbers, reply buffers that grow, and the errno that comes back. It knows how
// a request travels and nothing of what one means; package zfs is its only
// user.
package zcmd
