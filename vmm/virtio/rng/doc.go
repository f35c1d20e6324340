// SPDX-License-Identifier: BSD-2-Clause

// Package rng is the virtio entropy device (VIRTIO 1.2, section 5.4): random
// bytes, of the host's system where the caller names no other source.
//
// In a machine's life: Start and Resume begin the queue's goroutine, Pause and
// Halt wait for its end on the machine's. There is nothing to Reset.
//
// It may be imported by vmm. It imports virtio.
package rng
