// SPDX-License-Identifier: BSD-2-Clause

// Package rng is the virtio entropy device (VIRTIO 1.2, section 5.4): random
// bytes, of the host's system where the caller names no other source.
//
// It may be imported by vmm. It imports virtio.
package rng
