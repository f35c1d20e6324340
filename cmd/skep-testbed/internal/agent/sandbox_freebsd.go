// SPDX-License-Identifier: BSD-2-Clause

package agent

import (
	"os"
	"os/exec"
)

// privateDirs: there are no mount namespaces, sessions take turns.
const privateDirs = false

type sandboxSys struct {
	pid int
}

func (s *server) newSandbox(_ int, dir string) (*sandbox, error) {
	return s.claimDir(dir)
}

func (b *sandbox) start(cmd *exec.Cmd) error {
	err := cmd.Start()
	if err == nil {
		b.sys.pid = cmd.Process.Pid
	}
	return err
}

// kill ends every process of the sandbox: those that the first process and its
// descendants started.
func (b *sandbox) kill() {
	if b.sys.pid != 0 {
		killSubtree(b.sys.pid)
	}
}

func (b *sandbox) remove() {
	b.kill()
	b.removeFiles()
	if b.owned {
		if entries, err := os.ReadDir(b.dir); err == nil {
			for _, e := range entries {
				os.RemoveAll(b.dir + "/" + e.Name())
			}
		}
		b.server.releaseDir(b.dir)
	}
}
