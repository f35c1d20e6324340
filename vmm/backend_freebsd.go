// SPDX-License-Identifier: BSD-2-Clause

package vmm

import (
	"errors"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/bhyve"
)

// openBackend opens the host's own hypervisor.
func openBackend() (hv.Backend, error) {
	return bhyve.Open()
}

func removeLeftover(name string) error {
	b, err := bhyve.Open()
	if errors.Is(err, hv.ErrUnavailable) {
		return nil // no hypervisor, no machines
	}
	if err != nil {
		return err
	}
	return errors.Join(b.Remove(name), b.Close())
}
