// SPDX-License-Identifier: BSD-2-Clause

package limits

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/internal/sandbox"
)

// Host is what this host bounds workers with.
type Host struct {
	on bool // rctl(4)
	// call is one of rctl's system calls, but in tests; it answers what the kernel
	// wrote.
	call func(nr uintptr, in string) (string, error)
}

// Open looks what there is to bound workers with. The Host can be used whatever the
// error, which says what this host lacks.
func Open() (*Host, error) {
	h := &Host{call: rctl}
	if err := h.open(unix.SysctlRaw("kern.racct.enable")); err != nil {
		return h, fmt.Errorf("rctl rules for workers: %w", err)
	}
	return h, nil
}

// open judges by kern.racct.enable, which is a bool of one byte, and was an int.
func (h *Host) open(enable []byte, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("the kernel is built without RACCT: %w", errors.ErrUnsupported)
	case err != nil:
		return fmt.Errorf("kern.racct.enable: %w", err)
	case len(bytes.Trim(enable, "\x00")) == 0:
		return fmt.Errorf("kern.racct.enable is 0; loader.conf can set it: %w", errors.ErrUnsupported)
	}
	h.on = true
	return nil
}

// Place is empty: rules are a process's, not a place's.
func (h *Host) Place(id string) string { return "" }

// Make makes nothing.
func (h *Host) Make(place string, b Bounds) (*os.File, error) { return nil, nil }

// Bind puts limits on a worker that was not let go yet. They end with it.
func (h *Host) Bind(pid int, b Bounds) error {
	if !h.on {
		return nil
	}
	var errs []error
	for _, r := range b.rules(pid) {
		_, err := h.call(unix.SYS_RCTL_ADD_RULE, r)
		if errors.Is(err, unix.ENOSYS) {
			return fmt.Errorf("rctl: the kernel keeps no rules: %w", err)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("rctl: add rule %s: %w", r, err))
		}
	}
	return errors.Join(errs...)
}

// rules are a process's, as rctl(8) writes them. Of what one has in memory beyond
// memoryuse the kernel takes, once a second, the pages that it did not touch since the
// pager last came by: within ten minutes (vm.pageout_update_period), sooner where the
// host is short of memory, which is when they go to swap. Threads and files it gets no
// more of. One that used more of the processors in the last second than pcpu says, or
// nearly as much, is stopped for the next: there is room for all vCPUs at work and as
// much as two more for their devices, so that this is no guest's everyday.
func (b Bounds) rules(pid int) []string {
	return []string{
		fmt.Sprintf("process:%d:memoryuse:deny=%d", pid, b.memory()),
		fmt.Sprintf("process:%d:nthr:deny=%d", pid, sandbox.Threads),
		fmt.Sprintf("process:%d:openfiles:deny=%d", pid, sandbox.Files),
		fmt.Sprintf("process:%d:pcpu:deny=%d", pid, 100*(b.CPUs+2)),
	}
}

// Remove removes nothing.
func (h *Host) Remove(place string) error { return nil }

// Verdict has nothing to say: no rule ends a process.
func (h *Host) Verdict(place string) string { return "" }
