// SPDX-License-Identifier: BSD-2-Clause

package worker

import (
	"context"
	"io"
	"log/slog"

	"github.com/skepvm/skep/internal/worker/ctl"
)

// Guest is a built guest. Its methods may be called from any goroutine.
type Guest interface {
	// Confine gives up, before the guest runs, what only building it needed.
	Confine() error
	// Run runs the guest once, until it ends or ctx does, and says why it ended.
	Run(ctx context.Context) ctl.Exit
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Reset(ctx context.Context) error
	PowerButton(ctx context.Context) error
	// Kill ends the guest soon and does not wait.
	Kill()
	// Input is what the guest reads from its first serial line. A Write may
	// block until the guest takes it or ends.
	Input() io.Writer
	// Counters are numbers by name, as "disk0.read_bytes".
	Counters() map[string]uint64
	// Close frees what the guest has; after Run.
	Close() error
}

// Build makes a guest of a configuration. It opens all that the guest will ever
// open: after it the sandbox closes.
type Build func(cfg Config, env Env) (Guest, error)

// Env is what a guest is built into.
type Env struct {
	// Console takes what the guest writes to its first serial line.
	Console io.Writer
	// Changed is told the guest's state and its resets whenever they change.
	Changed func(state ctl.State, resets int)
	Log     *slog.Logger
}
