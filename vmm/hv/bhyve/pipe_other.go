// SPDX-License-Identifier: BSD-2-Clause

//go:build !freebsd && !linux

package bhyve

import (
	"errors"
	"os"
)

func pipe() (r, w *os.File, err error) { return nil, nil, errors.ErrUnsupported }
