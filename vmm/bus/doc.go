// SPDX-License-Identifier: BSD-2-Clause

// Package bus dispatches port and memory-mapped accesses of a guest to devices.
//
// A device gets an offset into its own range, never an address. Ranges never
// overlap; they may be moved while vCPUs run (a guest may reprogram a BAR).
//
// It may be imported by every device package. It imports nothing of skep.
package bus
