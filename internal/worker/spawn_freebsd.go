// SPDX-License-Identifier: BSD-2-Clause

package worker

import (
	"os"
	"syscall"
)

func sysProcAttr(cfg Config, group *os.File) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true}
}
