// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package skep

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// machinesLeft: on Linux a machine goes with the descriptors of its process.
func machinesLeft(*testing.T) []string { return nil }

func tellOverhead(t *testing.T, pid int, guest int64) { t.Log(people(overhead(t, pid, guest))) }

// checkOverhead says what a worker takes beside its guest's memory.
func checkOverhead(t *testing.T, pid int, guest int64) {
	t.Helper()
	over := overhead(t, pid, guest)
	t.Logf("the worker takes %s above its guest's memory", people(over))
	if over > 16*MiB {
		t.Errorf("the worker takes %s above its guest's memory", people(over))
	}
}

// overhead is what a worker has resident beside its guest's memory: its
// proportional set size, by proc_pid_smaps(5).
func overhead(t testing.TB, pid int, guest int64) (sum int64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Fatal(err)
	}
	var what string
	var size int64
	big := map[string]int64{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) >= 5 && strings.Contains(f[0], "-") && !strings.HasSuffix(f[0], ":") {
			what = strings.Join(f[5:], " ")
			continue
		}
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "Size:":
			size = n * KiB
		case "Pss:": // the program's text is the other workers' and the daemon's too
			if size >= guest/2 && !strings.Contains(what, "Go: ") {
				continue // the guest's
			}
			sum += n * KiB
			big[what] += n
		}
	}
	t.Logf("resident, KiB: %v", big)
	return sum
}

func tripleFaultsEnd() bool { return true }
