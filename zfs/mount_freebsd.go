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
				out[name] = append(out[name], mountPoint{at: cString(buf[i].Mntonname[:]), options: mountOptions(buf[i].Flags), device: device(&buf[i])})
			}
		}
		return out, nil
	}
}

func device(s *unix.Statfs_t) uint64 {
	return uint64(uint32(s.Fsid.Val[0])) | uint64(uint32(s.Fsid.Val[1]))<<32
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

// mount is nmount(2). ZFS applies the dataset's properties by itself, and takes
// what differs from them as options: it does not look at the flags.
func mount(name, at string, _ *Dataset, readOnly bool) error {
	options := [][2]string{{"fstype", "zfs"}, {"fspath", at}, {"from", name}}
	if readOnly {
		options = append(options, [2]string{"ro", ""})
	}
	return nmount(options, 0)
}

func unmount(at string, force bool) error {
	flags := 0
	if force {
		flags = unix.MNT_FORCE
	}
	return unix.Unmount(at, flags)
}
