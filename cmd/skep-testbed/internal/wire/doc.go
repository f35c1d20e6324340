// SPDX-License-Identifier: BSD-2-Clause

// Package wire is what the two ends of a session say to each other: the exec
// command outside and the agent inside the testbed. A session is one stream
// of frames; the first is a Request.
//
// It is imported by skep-testbed and its other packages and imports none of
// them.
package wire
