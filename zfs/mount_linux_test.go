// SPDX-License-Identifier: BSD-2-Clause

package zfs

import "testing"

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
