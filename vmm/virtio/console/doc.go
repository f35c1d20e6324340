// SPDX-License-Identifier: BSD-2-Clause

// Package console is the virtio console with one port (VIRTIO 1.2, section
// 5.3).
//
// What the guest writes goes to an io.Writer through a bounded buffer: a reader
// that is slow slows the guest, but one that has stopped reading for longer than
// a moment loses the oldest bytes instead of stopping the guest. What is typed
// waits in a bounded buffer until the guest takes it.
//
// In a machine's life: Start and Resume begin a goroutine for each direction, and
// one that writes the buffered output out runs from New until Halt. Pause waits,
// on the machine's goroutine, for the end of the first two; the third goes on with
// what has left the guest. Reset keeps both buffers. Halt waits until the output
// is written, for a reader that has stopped a moment at most.
//
// It may be imported by vmm. It imports virtio.
package console
