// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/skepvm/skep/internal/worker"
)

// workersIn finds the workers that have files under dir open.
func workersIn(dir string) (pids []int) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		cmd, err := os.ReadFile(p + "/cmdline")
		if err != nil || !bytes.Contains(cmd, []byte("\x00"+worker.Arg+"\x00")) {
			continue
		}
		fds, _ := filepath.Glob(p + "/fd/*")
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, dir+"/") {
				pid, _ := strconv.Atoi(filepath.Base(p))
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

// workersUnder is the same, but one that is just ending gets a moment.
func workersUnder(dir string) (pids []int) {
	for range 100 {
		if pids = workersIn(dir); len(pids) == 0 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return pids
}
