// SPDX-License-Identifier: BSD-2-Clause

// Package insn decodes and executes the x86 instructions that a guest uses on
// memory-mapped device registers. bhyve's kernel gives the VMM the bytes of the
// faulting instruction and the guest-physical address, and leaves the rest to it.
//
// Decode is pure; Exec touches the world through an Env only, so that the whole
// package runs and is tested on every system.
//
// Imported by vmm/hv/bhyve alone. It imports nothing of skep.
package insn
