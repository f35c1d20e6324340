// SPDX-License-Identifier: BSD-2-Clause

// Package ctl is the protocol between the daemon and a machine's worker, over a
// unix stream socket: both ends' frames, and the daemon's end of them.
//
// A frame is a big-endian uint32 length, at most MaxFrame, and that much JSON.
// The worker speaks first, with a Hello. The other end sends one Request and
// gets one Response; what follows depends on the operation:
//
//   - OpWatch: Event frames until the worker ends;
//   - OpConsole: raw bytes both ways, first Response.History of history;
//   - any other: further requests.
//
// It may be imported by internal/worker and package skep, and imports nothing
// of skep.
package ctl
