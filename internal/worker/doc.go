// SPDX-License-Identifier: BSD-2-Clause

// Package worker is the process that runs one machine's guest. The daemon
// starts its own binary as one (Spawn); the binary turns into it by Main. It
// finds every file that it needs open already, keeps a copy of the lock by
// which the daemon sees that it lives, answers on its control socket (package
// ctl), and writes why the guest ended into its exit file.
//
// It is started in two strokes: it does nothing until the daemon, having
// written the new process's id down, says go; if the daemon dies before that it
// ends. So there is never a worker that no record knows.
//
// It may be imported by package skep only. It knows a guest by the small
// interface Guest and imports vmm in no way.
package worker
