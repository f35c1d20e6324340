// SPDX-License-Identifier: BSD-2-Clause

// Package guestinit is the only program of the small Linux guest that tests
// and benchmarks boot: its init. It answers commands that arrive as lines on
// the console, so that a test can see from inside what it gave the guest from
// outside: processors, memory, disks, network, clock, power button. Asked for by
// the kernel's command line, it is a cloud guest too: testguest.CloudParam.
//
// Package testguest is its other end and describes the protocol. It is linked
// into cmd/skep-testbed, which builds the guest's initrd with itself as /init.
// It imports no package of skep but internal/testguest.
package guestinit
