// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && linux

package vmm_test

// holesDir is a directory whose files have holes punched.
const holesDir = "/var/tmp"

func tripleFaultsEnd() bool { return true }
