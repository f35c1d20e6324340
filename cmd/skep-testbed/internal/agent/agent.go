// SPDX-License-Identifier: BSD-2-Clause

package agent

import (
	"fmt"
	"os"
	"os/exec"
)

// ServeArg marks the process that serves sessions, the child of init.
const ServeArg = "serve-sessions-as-child-of-init"

// Mode of a process of this binary.
type Mode int

// Modes.
const (
	None  Mode = iota // not ours: the command outside
	Init              // the first process of a testbed
	Serve             // its child
)

// ModeOf tells what a process with these arguments is.
func ModeOf(pid int, args []string) Mode {
	switch {
	case pid == 1 && len(args) > 0 && (args[0] == "/init" || args[0] == "init" || args[0] == "/sbin/init"):
		return Init
	case len(args) == 2 && args[1] == ServeArg:
		return Serve
	}
	return None
}

// Main runs the agent. It does not return.
func Main(mode Mode) {
	switch mode {
	case Init:
		runInit()
	case Serve:
		if err := serve(); err != nil {
			logf("%v", err)
		}
		// Nobody is left who could ask for anything. (In a system with an init of
		// its own there is nobody else to do it.)
		powerOff()
	}
}

// runInit is process 1: it boots, starts the server and reaps whatever is
// left to it. It starts only that one child, so that collecting every dead
// process takes none away from os/exec.
func runInit() {
	defer powerOff()
	self, err := boot()
	if err != nil {
		fmt.Fprintf(os.Stderr, "\nskep-testbed agent: BOOT FAILED: %v\n", err)
		return
	}
	cmd := exec.Command(self, ServeArg)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = []string{"PATH=" + GuestPath, "HOME=/root"}
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "skep-testbed agent: start the server: %v\n", err)
		return
	}
	reapUntil(cmd.Process.Pid)
}

// GuestPath is where programs of the testbed are looked for.
const GuestPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
