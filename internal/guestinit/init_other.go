// SPDX-License-Identifier: BSD-2-Clause

//go:build !linux

package guestinit

// Here tells whether this process is the init of a test guest, which is always
// a Linux.
func Here() bool { return false }

// Main is never reached here.
func Main() {}
