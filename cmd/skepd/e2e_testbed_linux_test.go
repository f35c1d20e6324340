// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// holes: fstrim in a guest gives the host's disk its space back.
const holes = true

// slow stretches limits.
const slow = 1

// workers lists the processes, other than the daemon, that have files of its
// directory open.
func (d *skepd) workers(t *testing.T) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == d.cmd.Process.Pid || pid == os.Getpid() {
			continue
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			continue // it ended meanwhile
		}
		for _, f := range fds {
			if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, f.Name())); err == nil && strings.HasPrefix(to, d.dir) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}
