// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && freebsd && guests

package vmm_test

import (
	"time"

	"golang.org/x/sys/unix"
)

// patience is the limit of everything that a guest does here: the testbed's one
// processor is emulated, and runs all of the guest's.
const patience = 15 * time.Minute

// most is how many processors a guest has at most here. Each more has the testbed's
// one wait longer for the others, and sixteen did not get anywhere within minutes.
const most = 6

// holesDir is a directory whose files have holes punched: the testbed's tmpfs,
// since UFS writes zeroes instead (fspacectl(2)).
const holesDir = "/tmp"

// tripleFaultsEnd: vmm's AMD code (svm.c of FreeBSD 14 and 15) answers a shutdown
// with #UD and enters the guest again, for ever; it can still be stopped.
func tripleFaultsEnd() bool {
	_, err := unix.Sysctl("hw.vmm.svm.features")
	return err != nil
}
