// SPDX-License-Identifier: BSD-2-Clause

package worker

import (
	"os"
	"syscall"

	"github.com/skepvm/skep/internal/sandbox"
)

// nameProcess gives ps(1) and systemd's log a better name than that of
// /proc/self/exe, which is "exe": proc_pid_comm(5). One that cannot stays nameless.
func nameProcess(name string) { _ = os.WriteFile("/proc/self/comm", []byte(name), 0) }

func sysProcAttr(cfg Config, group *os.File) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if cfg.Sandbox {
		attr.Cloneflags = sandbox.CloneFlags()
	}
	if group != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, int(group.Fd())
	}
	return attr
}
