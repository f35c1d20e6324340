// SPDX-License-Identifier: BSD-2-Clause

package worker

import (
	"syscall"

	"github.com/skepvm/skep/internal/sandbox"
)

func sysProcAttr(cfg Config) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if cfg.Sandbox {
		attr.Cloneflags = sandbox.CloneFlags()
	}
	return attr
}
