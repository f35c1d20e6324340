// SPDX-License-Identifier: BSD-2-Clause

//go:build !linux

package main

import (
	"fmt"
	"os"

	"github.com/skepvm/skep/cmd/skep-testbed/internal/agent"
)

// main is the agent of a testbed that runs this system. Testbeds are started
// on Linux.
func main() {
	if mode := agent.ModeOf(os.Getpid(), os.Args); mode != agent.None {
		agent.Main(mode)
	}
	fmt.Fprintln(os.Stderr, "skep-testbed: testbeds are started on Linux; here this program is only their agent")
	os.Exit(125)
}
