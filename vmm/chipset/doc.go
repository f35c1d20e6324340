// SPDX-License-Identifier: BSD-2-Clause

// Package chipset is the legacy part of the machine: 16550 serial ports, the
// real-time clock, the keyboard controller's reset line, ACPI power management
// and the reset register. [New] assembles all of it; each part can be used and
// tested by itself.
//
// Time comes from a [Clock], interrupts leave through functions, so everything
// is deterministic under test. A part's registers may be accessed by several
// vCPU threads at once. Interrupt functions are called with the part's lock
// held and must not call back into it; power callbacks are called without.
//
// In a machine's life, on its goroutine: Start begins the serial port's writer,
// the only goroutine here, and the timers. Pause stops timers, interrupts and
// input from the host; output that has left the guest flows on. Resume raises what
// fell due meanwhile. Reset takes registers to power-on; the time of day, the RTC's
// memory and output stay. Halt waits until the output is written, a second at most.
//
// A register that is accessed with a width or at an offset that the hardware
// does not define reads all ones, and a write to it is lost.
//
// It may be imported by vmm. It imports bus only, never a backend.
package chipset
