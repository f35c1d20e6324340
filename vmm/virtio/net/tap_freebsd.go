// SPDX-License-Identifier: BSD-2-Clause

package net

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm/virtio/net/internal/abi"
)

// setup prepares a tap (tap(4)). No offload is offered to the guest, and none is by
// bhyve(8) on a tap. From the guest: a checksum that the frame's header declares
// unfinished the kernel takes for a right one (virtio_net_rx_csum of 14 and 15) and
// does not finish, so it would leave the host wrong by way of a bridge; segments
// it does not cut up. To the guest: what the kernel may leave undone are the
// interface's capabilities (SIOCSIFCAP), which are off at first, which a process in
// capability mode cannot set, and which nothing of skep's sets (netif.SetOffloads
// would).
func (b *file) setup() (Offload, error) {
	if err := unix.IoctlSetPointerInt(b.fd, abi.TAPSVNETHDR, HeaderSize); err != nil {
		return 0, fmt.Errorf("set header size: %w", err)
	}
	return 0, nil
}

func (b *file) setOffload(Offload) error { return nil }
