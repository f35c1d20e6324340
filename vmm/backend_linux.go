// SPDX-License-Identifier: BSD-2-Clause

package vmm

import (
	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/kvm"
)

// openBackend opens the host's own hypervisor.
func openBackend() (hv.Backend, error) {
	return kvm.Open()
}

func removeLeftover(string) error { return nil }
