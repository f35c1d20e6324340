// SPDX-License-Identifier: BSD-2-Clause

// Package console is the virtio console with one port (VIRTIO 1.2, section
// 5.3).
//
// What the guest writes goes to an io.Writer through a bounded buffer: a reader
// that is slow slows the guest, but one that has stopped reading for longer than
// a moment loses the oldest bytes instead of stopping the guest. What is typed
// waits in a bounded buffer until the guest takes it.
//
// It may be imported by vmm. It imports virtio.
package console
