// SPDX-License-Identifier: BSD-2-Clause

// Package bhyve is the backend of package hv on FreeBSD: /dev/vmmctl (the sysctl
// hw.vmm.create on 14), /dev/vmm/NAME and the machine that vmm.ko runs behind
// it. bhyve(8) and libvmmapi are not used.
//
// Machines are named in the kernel and outlive the process that made them (FreeBSD
// 16's can end them with the vmmctl that made them: by its sources, not confirmed on a
// kernel, as all that is said of 16 here). Their names get the prefix Prefix, so that
// Backend.Machines and Backend.Remove find what a crash left and never touch
// another's.
//
// VM.Confine and Backend.Confine bind the process to its machine before a guest
// runs: the rights and requests of its descriptor are limited (capsicum(4)), and
// /dev/vmmctl loses all rights.
//
// What the kernel does itself: local APICs, I/O APIC, 8259, 8254, HPET, PM timer
// (port 0x408), RTC (0x70, 0x71), CPUID, HLT. Accesses to those never reach the
// hv.Handler. The kernel has no way to stop a guest's TSC: unlike on KVM, the
// time of a pause is seen by the guest.
//
// All but the system calls builds on every system, and its tests play the
// kernel. Imported by package vmm and by the host's clean-up; imports hv only.
package bhyve
