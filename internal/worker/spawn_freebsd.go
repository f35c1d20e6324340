// SPDX-License-Identifier: BSD-2-Clause

package worker

import "syscall"

func sysProcAttr(cfg Config) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true}
}
