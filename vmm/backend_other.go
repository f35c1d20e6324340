// SPDX-License-Identifier: BSD-2-Clause

//go:build !linux && !freebsd

package vmm

import (
	"fmt"
	"runtime"

	"github.com/skepvm/skep/vmm/hv"
)

// openBackend opens the host's own hypervisor.
func openBackend() (hv.Backend, error) {
	return nil, fmt.Errorf("%s: %w", runtime.GOOS, hv.ErrUnavailable)
}

func removeLeftover(string) error { return nil }
