// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"fmt"
	"os"
)

// Offloads is what the reader of a tap can take: frames with a partial
// checksum, and segments larger than the MTU. They follow the features that the
// guest's driver accepted (virtio 1.2, section 5.1.3).
type Offloads uint

// The bits of Offloads; all but OffloadChecksum need OffloadChecksum.
const (
	OffloadChecksum Offloads = 1 << iota // VIRTIO_NET_F_GUEST_CSUM
	OffloadTSO4                          // VIRTIO_NET_F_GUEST_TSO4
	OffloadTSO6                          // VIRTIO_NET_F_GUEST_TSO6
	OffloadECN                           // VIRTIO_NET_F_GUEST_ECN
	OffloadUSO4                          // VIRTIO_NET_F_GUEST_USO4
	OffloadUSO6                          // VIRTIO_NET_F_GUEST_USO6
)

// SetOffloads tells the kernel what the reader of an open tap (made with
// VnetHeader) takes. A set that this kernel lacks is errors.ErrUnsupported; a
// new tap has none. What is written to a tap may always use them.
func SetOffloads(tap *os.File, o Offloads) error {
	if o&^OffloadChecksum != 0 && o&OffloadChecksum == 0 {
		return invalid("segmentation offload without checksum offload")
	}
	if err := setOffloads(tap, o); err != nil {
		return fmt.Errorf("netif: offloads of %s: %w", tap.Name(), err)
	}
	return nil
}
