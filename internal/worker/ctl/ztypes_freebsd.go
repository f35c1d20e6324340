// SPDX-License-Identifier: BSD-2-Clause

package ctl

// xucred is struct xucred of sys/ucred.h, FreeBSD 13 and later, LP64.
type xucred struct {
	Version uint32
	UID     uint32
	Ngroups int16
	_       [2]byte
	Groups  [16]uint32
	_       [4]byte
	PID     int32 // in a union with a pointer
	_       [4]byte
}

const (
	xucredVersion = 0  // XUCRED_VERSION
	sizeofXucred  = 88 // of sys/ucred.h on amd64
)
