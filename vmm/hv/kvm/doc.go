// SPDX-License-Identifier: BSD-2-Clause

// Package kvm is the hypervisor backend on Linux: /dev/kvm.
//
// All of the interrupt controllers, the 8254 and the guest's clock are the
// kernel's. Doorbells are ioeventfds on which a goroutine waits through the
// runtime's poller, MSIs are irqfds with a route each. A vCPU's goroutine is
// interrupted by kvm_run's immediate_exit and SIGURG, which the Go runtime
// handles anyway.
//
// It may be imported by vmm only, and imports hv. It knows nothing of devices.
package kvm
