// SPDX-License-Identifier: BSD-2-Clause

// Package blk is the virtio block device (VIRTIO 1.2, section 5.2) on a
// block.Backend.
//
// A request that comes alone is carried out at once on its queue's goroutine:
// nothing is faster. When more are waiting, those that would wait for the disk
// go to a few helpers per queue, so that the disk sees them together; their
// number bounds the device's memory.
//
// It may be imported by vmm. It imports virtio and block.
package blk
