// SPDX-License-Identifier: BSD-2-Clause

// Package net is the virtio network device (VIRTIO 1.2, section 5.1). Frames go
// between guest memory and a tap by readv and writev, without a copy in
// between; checksum and segmentation offload are settled between driver and
// tap.
//
// In a machine's life: Start and Resume begin one goroutine that receives and one
// that sends. Pause and Halt wake the one that waits for a frame and wait, on the
// machine's goroutine, for the end of both; buffers without a frame stay with the
// driver, frames in the host. Reset switches offloads off; what is in the tap stays.
//
// It may be imported by vmm. It imports virtio.
package net
