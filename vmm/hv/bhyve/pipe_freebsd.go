// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// limitPipe leaves either end the one right that it is for, as a worker makes pipes
// when it is shut in already.
func limitPipe(r, w *os.File) error {
	return errors.Join(limitRights(r.Fd(), unix.CAP_READ), limitRights(w.Fd(), unix.CAP_WRITE))
}
