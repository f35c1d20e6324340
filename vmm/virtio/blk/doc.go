// SPDX-License-Identifier: BSD-2-Clause

// Package blk is the virtio block device (VIRTIO 1.2, section 5.2) on a
// block.Backend.
//
// A request that comes alone is carried out at once on its queue's goroutine:
// nothing is faster. When more are waiting, those that would wait for the disk
// go to a few helpers per queue, so that the disk sees them together; their
// number bounds the device's memory.
//
// In a machine's life: Start and Resume begin a goroutine a queue. Pause and Halt
// wait, on the machine's goroutine, until that and its helpers have answered every
// request that they took, or given it back: a long one goes to the disk in pieces,
// is given up between two of them and begun again at Resume. Halt then flushes the
// disk. Reset forgets the cache mode; the disk keeps its bytes.
//
// It may be imported by vmm. It imports virtio and block.
package blk
