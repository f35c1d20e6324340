// SPDX-License-Identifier: BSD-2-Clause

package worker

import (
	"time"

	"golang.org/x/sys/unix"
)

// usage tells this process's CPU time and its resident memory, in bytes: the
// most that it ever was, by getrusage(2), which needs no file.
func usage() (time.Duration, int64) {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &r) != nil {
		return 0, 0
	}
	// ru_maxrss is in kilobytes on Linux and FreeBSD alike.
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), r.Maxrss << 10
}
