// SPDX-License-Identifier: BSD-2-Clause

// Package agent is the part of skep-testbed that runs inside the testbed: as
// its init it brings the system up, then it runs what the command outside
// asks for, each in a working directory of its own, and powers the machine
// off when the command outside is gone.
//
// It is imported by cmd/skep-testbed alone and must work in a static binary
// without any other program.
package agent
