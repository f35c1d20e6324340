// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && freebsd

package zcmd

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"
)

func TestIocparm(t *testing.T) {
	var p iocparm
	if unsafe.Sizeof(p) != 24 || unsafe.Offsetof(p.Cmd) != 8 || unsafe.Offsetof(p.Size) != 16 {
		t.Errorf("zfs_iocparm: %d bytes", unsafe.Sizeof(p))
	}
	// The table has the ioctl's number and argument in words.
	want := fmt.Sprintf("_IOWR(Z, nr, struct zfs_iocparm{u32 version; u64 cmd; u64 cmd_size} of %d bytes), version %d", unsafe.Sizeof(p), iocparmOpenZF)
	if s := readABI(t).Source; !strings.Contains(s, want) {
		t.Errorf("the table has %q, not %q", s, want)
	}
	if n := 0xc0000000 | uint32(unsafe.Sizeof(p))<<16 | 'Z'<<8; n != requestBase {
		t.Errorf("_IOWR('Z', 0, struct zfs_iocparm) = %#x, not %#x", n, uint32(requestBase))
	}
}
