// SPDX-License-Identifier: BSD-2-Clause

package net

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm/virtio/net/internal/abi"
)

// setup prepares a tap (tap(4)). The kernel completes what the guest leaves
// undone by the frame's header; what it may leave undone towards the guest is
// the interface's SIOCSIFCAP, which package netif sets and which is off at
// first.
func (b *file) setup() (Offload, error) {
	if err := unix.IoctlSetPointerInt(b.fd, abi.TAPSVNETHDR, HeaderSize); err != nil {
		return 0, fmt.Errorf("set header size: %w", err)
	}
	return 0, nil
}

func (b *file) setOffload(Offload) error { return nil }
