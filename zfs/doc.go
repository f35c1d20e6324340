// SPDX-License-Identifier: BSD-2-Clause

// Package zfs drives OpenZFS by ioctl on /dev/zfs: pools, datasets, snapshots,
// clones, holds, send and receive, on FreeBSD (14, 15) and Linux (OpenZFS 2.1
// to 2.4), without the zfs and zpool commands, libzfs or cgo. Names, property
// names and values are those of zfsprops(7) and zpoolprops(7).
//
//	h, err := zfs.Open()
//	err = h.CreateSnapshots(ctx, []string{"tank/a@x", "tank/b@x"}, nil) // atomic
//	for d, err := range h.Descend(ctx, "tank", zfs.Volumes) { … }
//
// A Handle is safe for concurrent use. Functions with the names of its methods
// open one for the length of a call.
//
// Errors are *Error: what was tried, on what, and why; errors.Is matches the
// sentinels of this package, and the errno beneath them.
//
// The package imports nvlist and nothing else of skep. It does not know of
// machines, images or hosts.
package zfs
