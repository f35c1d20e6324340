// SPDX-License-Identifier: BSD-2-Clause

package image

import "os"

// reflink: FreeBSD shares blocks by copy_file_range(2) alone, which copyData
// uses.
func reflink(_, _ *os.File) bool { return false }
