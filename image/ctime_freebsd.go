// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"os"
	"syscall"
)

// ctime is when a file was last changed, in content or otherwise.
func ctime(st os.FileInfo) any {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return s.Ctimespec
	}
	return nil
}
