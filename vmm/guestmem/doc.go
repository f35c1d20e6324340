// SPDX-License-Identifier: BSD-2-Clause

// Package guestmem is guest-physical memory as the VMM sees it: the only code
// that touches it, and every access is checked against what is mapped.
//
// The guest runs while we read. So a value is loaded once, into our own memory,
// then checked and used; 16, 32 and 64-bit loads and stores that both sides
// synchronise on are atomic.
//
// It may be imported by every device package. It imports nothing of skep but hv.
package guestmem
