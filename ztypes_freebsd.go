// SPDX-License-Identifier: BSD-2-Clause

package skep

// Of struct kinfo_proc of sys/user.h, FreeBSD 12 and later, amd64.
const (
	sizeofKinfoProc      = 1088 // KINFO_PROC_SIZE, and ki_structsize
	offsetKinfoProcStart = 336  // ki_start, a struct timeval
)
