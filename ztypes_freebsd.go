// SPDX-License-Identifier: BSD-2-Clause

package skep

// Of struct kinfo_proc of sys/user.h, FreeBSD 12 and later, amd64.
const (
	sizeofKinfoProc      = 1088 // KINFO_PROC_SIZE, and ki_structsize
	offsetKinfoProcStart = 336  // ki_start, a struct timeval
)

const (
	sysCopyFileRange   = 569        // SYS_copy_file_range of sys/syscall.h, FreeBSD 13 and later
	copyFileRangeClone = 0x00800000 // COPY_FILE_RANGE_CLONE of sys/unistd.h, FreeBSD 15
)
