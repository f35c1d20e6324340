// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"bytes"

	"golang.org/x/sys/unix"
)

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// mounts gives where each file system of ZFS is mounted, in the order of mounting.
func mounts() (map[string][]string, error) {
	n, err := unix.Getfsstat(nil, unix.MNT_NOWAIT)
	if err != nil {
		return nil, err
	}
	for {
		buf := make([]unix.Statfs_t, n+16)
		if n, err = unix.Getfsstat(buf, unix.MNT_NOWAIT); err != nil {
			return nil, err
		}
		if n == len(buf) { // more were mounted meanwhile
			continue
		}
		out := map[string][]string{}
		for i := range buf[:n] {
			if cString(buf[i].Fstypename[:]) == "zfs" {
				name := cString(buf[i].Mntfromname[:])
				out[name] = append(out[name], cString(buf[i].Mntonname[:]))
			}
		}
		return out, nil
	}
}

// mount is nmount(2) with the options that libzfs's do_mount gives.
func mount(name, at string, d *Dataset, readOnly bool) error {
	var flags int
	for _, o := range []struct {
		prop, value string
		flag        int
	}{{"atime", "off", unix.MNT_NOATIME}, {"exec", "off", unix.MNT_NOEXEC}, {"setuid", "off", unix.MNT_NOSUID}} {
		if d.Value(o.prop) == o.value {
			flags |= o.flag
		}
	}
	if readOnly {
		flags |= unix.MNT_RDONLY
	}
	return nmount([][2]string{{"fstype", "zfs"}, {"fspath", at}, {"from", name}}, flags)
}

func unmount(at string, force bool) error {
	flags := 0
	if force {
		flags = unix.MNT_FORCE
	}
	return unix.Unmount(at, flags)
}
