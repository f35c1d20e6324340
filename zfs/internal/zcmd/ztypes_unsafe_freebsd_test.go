// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"testing"
	"unsafe"
)

func TestIocparm(t *testing.T) {
	var p iocparm
	if unsafe.Sizeof(p) != 24 || unsafe.Offsetof(p.Cmd) != 8 || unsafe.Offsetof(p.Size) != 16 {
		t.Errorf("zfs_iocparm: %d bytes", unsafe.Sizeof(p))
	}
}
