// SPDX-License-Identifier: BSD-2-Clause

// Package net is the virtio network device (VIRTIO 1.2, section 5.1). Frames go
// between guest memory and a tap by readv and writev, without a copy in
// between; checksum and segmentation offload are settled between driver and
// tap.
//
// It may be imported by vmm. It imports virtio.
package net
