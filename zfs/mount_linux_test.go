// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestMountOptions(t *testing.T) {
	for _, c := range []struct{ mount, super, has, not string }{
		{"rw,nosuid,relatime", "rw,xattr,noacl", "rw", "ro"},
		{"ro,relatime", "rw,xattr", "ro", "rw"},
		{"rw,relatime", "ro,xattr", "ro", "rw"},
	} {
		got := mountOptions(c.mount, c.super)
		if !hasOption(got, c.has) || hasOption(got, c.not) || !hasOption(got, "xattr") || !hasOption(got, "relatime") {
			t.Errorf("%s of %s: %s", c.mount, c.super, got)
		}
	}
}

func TestMountDevice(t *testing.T) {
	for s, want := range map[string]uint64{"0:45": unix.Mkdev(0, 45), "259:70000": unix.Mkdev(259, 70000), "": 0, "7": 0, "x:1": 0, "1:-1": 0, "1:4294967296": 0} {
		if got := device(s); got != want {
			t.Errorf("%q: %#x, not %#x", s, got, want)
		}
	}
}
