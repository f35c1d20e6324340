// SPDX-License-Identifier: BSD-2-Clause

//go:build !freebsd

package bhyve

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/skepvm/skep/vmm/hv"
)

// Open fails: bhyve is FreeBSD's.
func Open() (*Backend, error) {
	return nil, fmt.Errorf("bhyve: %w on %s: %w", hv.ErrUnavailable, runtime.GOOS, errors.ErrUnsupported)
}
