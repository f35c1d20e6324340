// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package skep

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestRealKernel runs on a FreeBSD kernel what needs no guest: the store, the
// worker's process with its lock, socket, identity and capability mode, and the
// daemon's death at every point.
func TestRealKernel(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"Life", TestLife},
		{"Console", TestConsole},
		{"HowGuestsEnd", TestHowGuestsEnd},
		{"CreateThatFails", TestCreateThatFails},
		{"Reopen", TestReopen},
		{"HostRestarted", TestHostRestarted},
		{"Snapshots", TestSnapshots},
		{"Sandbox", TestSandbox},
	} {
		t.Run(c.name, c.test)
	}
}

// tripleFaultsEnd: vmm's AMD code (svm.c of FreeBSD 14 and 15) answers a shutdown
// with #UD and enters the guest again, for ever; it can still be stopped.
func tripleFaultsEnd() bool {
	_, err := unix.Sysctl("hw.vmm.svm.features")
	return err != nil
}

// checkOverhead and tellOverhead: nothing tells what a process has resident beside its mappings
// of the guest's memory.
func checkOverhead(*testing.T, int, int64) {}
func tellOverhead(*testing.T, int, int64)  {}
