// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && linux

package vmm_test

import "time"

// patience is the limit of everything that a guest does here: the testbed
// itself may be emulated, and its host busy.
const patience = 3 * time.Minute

// holesDir is a directory whose files have holes punched.
const holesDir = "/var/tmp"

func tripleFaultsEnd() bool { return true }

// most is how many processors a guest has at most here.
const most = 16
