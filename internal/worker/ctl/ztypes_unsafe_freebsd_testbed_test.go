// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && freebsd

package ctl

import (
	"testing"
	"unsafe"
)

func TestXucredLayout(t *testing.T) {
	var u xucred
	if s := unsafe.Sizeof(u); s != sizeofXucred {
		t.Errorf("sizeof(struct xucred) = %d, want %d", s, sizeofXucred)
	}
	if o := unsafe.Offsetof(u.PID); o != 80 {
		t.Errorf("offset of cr_pid = %d, want 80", o)
	}
}
