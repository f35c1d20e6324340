// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"bytes"
	"strings"

	"golang.org/x/sys/unix"
)

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// mounts gives where each file system of ZFS is mounted, in the order of mounting.
func mounts() (map[string][]mountPoint, error) {
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
		out := map[string][]mountPoint{}
		for i := range buf[:n] {
			if cString(buf[i].Fstypename[:]) == "zfs" {
				name := cString(buf[i].Mntfromname[:])
				out[name] = append(out[name], mountPoint{cString(buf[i].Mntonname[:]), mountOptions(buf[i].Flags)})
			}
		}
		return out, nil
	}
}

// mountOptions names the flags that say something of a property.
func mountOptions(flags uint64) string {
	var words []string
	for _, o := range []struct {
		flag     uint64
		set, not string
	}{
		{unix.MNT_RDONLY, "ro", "rw"}, {unix.MNT_NOSUID, "nosuid", "suid"}, {unix.MNT_NOEXEC, "noexec", "exec"},
		{unix.MNT_NOATIME, "noatime", "atime"},
	} {
		if flags&o.flag != 0 {
			words = append(words, o.set)
		} else {
			words = append(words, o.not)
		}
	}
	return strings.Join(words, ",")
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
