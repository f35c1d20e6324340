// SPDX-License-Identifier: BSD-2-Clause

// Package nvlist encodes and decodes name-value lists, the language in which
// ZFS speaks to user space: typed, ordered, nested, in a native
// (little-endian) and an XDR encoding. See OpenZFS include/sys/nvpair.h and
// nvlist_alloc(3).
//
// What is read is not trusted: every length, count, depth, terminator and
// duplicate is checked before memory is allocated for it. Decoding allocates in
// all, of good input or bad, at most 32 bytes for each byte of the input, and
// 64 KiB. Strings of a decoded list share one copy of the input; clone a string
// that should outlive its list.
//
// A list that need not stand in memory as a whole is written pair by pair by an
// Encoder and read by WalkReader.
//
// The package knows nothing of ioctls or of ZFS names. It imports the standard
// library only, and anything may import it.
package nvlist
