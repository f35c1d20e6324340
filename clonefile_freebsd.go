// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"errors"
	"os"
)

// reflink is left to copy_file_range(2), by which FreeBSD's ZFS can clone blocks; no test
// has seen it do so.
func reflink(dst, src *os.File) error { return errors.ErrUnsupported }
