// SPDX-License-Identifier: BSD-2-Clause

package worker

import (
	"os"
	"syscall"
)

// nameProcess has nothing to do: the name is the program's file's.
func nameProcess(string) {}

func sysProcAttr(cfg Config, group *os.File) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true}
}
