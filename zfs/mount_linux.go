// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mounts gives where each file system of ZFS is mounted, in the order of mounting.
func mounts() (map[string][]mountPoint, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string][]mountPoint{}
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		// "36 35 98:0 /root /at opts optional… - type source super"; see proc_pid_mountinfo(5).
		before, after, ok := strings.Cut(s.Text(), " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		if ok && len(b) >= 6 && len(a) >= 3 && a[0] == "zfs" {
			name := unescapeMount(a[1])
			out[name] = append(out[name], mountPoint{at: unescapeMount(b[4]), options: mountOptions(b[5], a[2]), device: device(b[2])})
		}
	}
	return out, s.Err()
}

// device reads "98:0".
func device(s string) uint64 {
	major, minor, _ := strings.Cut(s, ":")
	a, err := strconv.ParseUint(major, 10, 32)
	b, berr := strconv.ParseUint(minor, 10, 32)
	if err != nil || berr != nil {
		return 0
	}
	return unix.Mkdev(uint32(a), uint32(b))
}

// mountOptions are those of a mount and of its file system, as /proc/mounts has
// them: a mount that may be written is read-only all the same if its file system is.
func mountOptions(mount, super string) string {
	if hasOption(super, "ro") {
		mount = strings.TrimPrefix(mount, "rw")
	} else {
		super = strings.TrimPrefix(super, "rw")
	}
	return mount + "," + super
}

var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")

func unescapeMount(s string) string { return mountEscapes.Replace(s) }

func mount(name, at string, d *Dataset, readOnly bool) error {
	var flags uintptr
	for _, o := range []struct {
		prop, value string
		flag        uintptr
	}{
		{"atime", "off", unix.MS_NOATIME}, {"exec", "off", unix.MS_NOEXEC}, {"setuid", "off", unix.MS_NOSUID},
		{"devices", "off", unix.MS_NODEV},
	} {
		if d.Value(o.prop) == o.value {
			flags |= o.flag
		}
	}
	if d.Value("atime") == "on" {
		if d.Value("relatime") == "on" {
			flags |= unix.MS_RELATIME
		} else {
			flags |= unix.MS_STRICTATIME
		}
	}
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	// zfsutil tells the module that the properties were minded; without it
	// anything but a legacy mount point is refused. A legacy one refuses it.
	data := "zfsutil"
	if d.Value("mountpoint") == "legacy" {
		data = ""
	}
	if d.Value("xattr") == "off" {
		data = strings.TrimPrefix(data+",noxattr", ",")
	} else {
		data = strings.TrimPrefix(data+",xattr", ",")
	}
	return unix.Mount(name, at, "zfs", flags, data)
}

func unmount(at string, force bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if force {
		flags |= unix.MNT_FORCE | unix.MNT_DETACH
	}
	return unix.Unmount(at, flags)
}
