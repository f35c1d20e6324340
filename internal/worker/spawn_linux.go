// SPDX-License-Identifier: BSD-2-Clause

package worker

import (
	"os"
	"syscall"

	"github.com/skepvm/skep/internal/sandbox"
)

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
