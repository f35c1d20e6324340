// SPDX-License-Identifier: BSD-2-Clause

// Package virtio is what all virtio devices share (VIRTIO 1.2): the split
// virtqueue, the life of a device, and the modern PCI transport.
//
// A device package (blk, net, console, rng) implements Device and knows of
// queues and chains only; NewPCI makes a pci.Device of it. Each active queue
// has one goroutine, in Device.Serve; the transport starts it when the driver
// and the machine allow, and stops it for pause, reset, bus mastering off and
// halt, so that a device has to know but one rule: leave Serve soon when told
// to, with every request of that queue finished.
//
// The machine's calls ([github.com/skepvm/skep/vmm], "The contract of a device")
// come on its one goroutine: Start and Resume let the queues' goroutines begin
// where the driver is ready; Pause and Halt return when they have ended, Halt for
// good and with what the device has to bring home (Halter); Reset, while paused,
// takes transport, configuration space and device to power-on.
//
// The guest is hostile: a descriptor is checked when it is used, a ring field
// is read once, every loop is bounded by the queue's size, and a queue whose
// driver broke the rules stops, with DEVICE_NEEDS_RESET, until a reset.
//
// It may be imported by the device packages and vmm. It imports pci, guestmem,
// bus and hv.
package virtio
