// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// Command starts, pauses or ends an activity on a pool.
type Command uint64

// The commands.
const (
	Start Command = iota
	Pause
	Cancel
)

// ScrubPool reads all of a pool and mends what can be mended. Start also goes on after Pause.
func (h *Handle) ScrubPool(ctx context.Context, name string, c Command) error {
	const op = "scrub"
	if err := checkNewOrOld(op, name); err != nil {
		return err
	}
	r := h.dev.Request(name)
	defer r.Release()
	switch c {
	case Start:
		r.Cmd.Cookie = uint64(Scrub)
	case Pause:
		r.Cmd.Cookie, r.Cmd.Flags = uint64(Scrub), 1 // POOL_SCRUB_PAUSE
	}
	err := r.DoOnce(ctx, zcmd.PoolScan)
	if c == Start && errors.Is(err, syscall.ECANCELED) { // it goes on after a pause
		return nil
	}
	return fail(op, zcmd.PoolScan, name, err)
}

// TrimPool tells the devices of a pool, or those of the paths, what they need not keep.
func (h *Handle) TrimPool(ctx context.Context, name string, c Command, devices ...string) error {
	// POOL_TRIM_START, _CANCEL, _SUSPEND
	return h.onLeaves(ctx, "trim", zcmd.PoolTrim, name, "trim_command", "trim_vdevs", map[Command]uint64{Start: 0, Cancel: 1, Pause: 2}[c], devices)
}

// InitializePool writes to all free space of the devices of a pool, or those of the paths.
func (h *Handle) InitializePool(ctx context.Context, name string, c Command, devices ...string) error {
	return h.onLeaves(ctx, "initialize", zcmd.PoolInitialize, name, "initialize_command", "initialize_vdevs",
		map[Command]uint64{Start: 0, Cancel: 1, Pause: 2}[c], devices)
}

func (h *Handle) onLeaves(ctx context.Context, op string, req zcmd.Op, name, command, key string, c uint64, devices []string) error {
	p, err := h.Pool(ctx, name)
	if err != nil {
		return err
	}
	vdevs := nvlist.New()
	paths := map[uint64]string{}
	for v := range p.Root.All() {
		if v.Type != "disk" && v.Type != "file" {
			continue
		}
		wanted := len(devices) == 0
		for _, d := range devices {
			wanted = wanted || d == v.Path
		}
		if wanted {
			nvlist.Set(vdevs, v.Path, v.GUID)
			paths[v.GUID] = v.Path
		}
	}
	if vdevs.Len() < max(1, len(devices)) {
		return &Error{Op: op, Name: name, Kind: ErrNotFound, Hint: fmt.Sprintf("not all of these are devices of it: %q", devices)}
	}
	out, err := h.call(ctx, op, req, name, nvlist.New(nvlist.P(command, c), nvlist.P(key, vdevs)))
	if err == nil {
		return nil
	}
	for guid, v := range out.List(key).All() {
		if n, ok := v.Int(); ok && n != 0 {
			return hint(fail(op, req, name, syscall.Errno(n)), nil, guid)
		}
	}
	return err
}

// Activity is something that a pool does by itself and that can be waited for.
type Activity uint8

// The activities.
const (
	Scanned     Activity = 1 << iota // a scrub or resilver
	Trimmed                          // a trim
	Initialized                      // an initialization
	Removed                          // the removal of a device
	Freed                            // the freeing of what was destroyed
)

// kernelActivities are zpool_wait_activity_t.
var kernelActivities = []struct {
	what Activity
	code int32
}{{Scanned, 6}, {Scanned, 5}, {Trimmed, 7}, {Initialized, 2}, {Removed, 4}, {Freed, 1}} // scrub, resilver, …

// WaitPool waits until none of the activities goes on in the pool. The kernel
// wakes it up; the context ends it early. progress, if not nil, is called with
// the status before it waits, each second meanwhile, and at the end. A pool
// that is exported meanwhile is ErrNotFound, one that is suspended at the start ErrSuspended.
func (h *Handle) WaitPool(ctx context.Context, name string, what Activity, progress func(*Pool)) error {
	if progress != nil {
		if _, err := h.busy(ctx, name, 0, progress); err != nil {
			return err
		}
	}
	const shortest = 10 * time.Millisecond
	for pause := shortest; ; {
		waited := false
		for _, a := range kernelActivities {
			if what&a.what == 0 {
				continue
			}
			w, err := h.waitKernel(ctx, name, a.code, progress)
			if err != nil {
				return err
			}
			waited = waited || w
		}
		busy, err := h.busy(ctx, name, what, progress)
		if err != nil || !busy {
			return err
		}
		if waited { // another has begun
			pause = shortest
			continue
		}
		// What the kernel does not count as going on yet, or any more: between two steps of it.
		select {
		case <-ctx.Done():
			return canceled(ctx, "wait", name)
		case <-time.After(pause):
			pause = min(pause*2, time.Second)
		}
	}
}

// waitKernel waits in the kernel for one activity, and reports whether it went on at all.
func (h *Handle) waitKernel(ctx context.Context, name string, activity int32, progress func(*Pool)) (bool, error) {
	const op, reply = "wait", 4 << 10
	if err := checkNewOrOld(op, name); err != nil {
		return false, err
	}
	r := h.dev.Request(name)
	defer r.Release()
	if err := r.SetInput(nvlist.New(nvlist.P("wait_activity", activity))); err != nil {
		return false, &Error{Op: op, Name: name, Err: err}
	}
	done := make(chan error, 1)
	go func() { done <- r.Wait(ctx, zcmd.Wait, reply) }()
	var tick <-chan time.Time
	if progress != nil {
		t := time.NewTicker(time.Second)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-tick:
			if p, err := h.Pool(ctx, name); err == nil {
				progress(p)
			}
			continue
		case err := <-done:
			switch {
			case ctx.Err() != nil:
				return false, canceled(ctx, op, name)
			case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.Errno(errCmdUnavail)):
				return false, nil // nothing goes on in a pool that is read-only; a module without it is polled
			case err != nil:
				return false, fail(op, zcmd.Wait, name, err)
			}
			out, err := r.Reply()
			if err != nil {
				return false, &Error{Op: op, Name: name, Err: err}
			}
			waited, _ := nvlist.Get[bool](out, "wait_waited")
			return waited, nil
		}
	}
}

func (h *Handle) busy(ctx context.Context, name string, what Activity, progress func(*Pool)) (bool, error) {
	p, err := h.Pool(ctx, name)
	if err != nil {
		return false, err
	}
	if progress != nil {
		progress(p)
	}
	busy := what&Scanned != 0 && p.Scan.Active() && !p.Scan.Paused
	for v := range p.Root.All() {
		busy = busy || what&Trimmed != 0 && v.Trim.Active() || what&Initialized != 0 && v.Initialize.Active() ||
			what&Removed != 0 && v.Removing
	}
	if !busy && what&Freed != 0 {
		props, err := h.PoolProperties(ctx, name)
		if err != nil {
			return false, err
		}
		busy = props["freeing"].Number > 0
	}
	return busy, nil
}

// Checkpoint keeps the state of a pool, so that an import can go back to it.
func (h *Handle) Checkpoint(ctx context.Context, name string) error {
	if err := checkNewOrOld("checkpoint", name); err != nil {
		return err
	}
	_, err := h.call(ctx, "checkpoint", zcmd.PoolCheckpoint, name, nil)
	return err
}

// DiscardCheckpoint lets the checkpoint of a pool go.
func (h *Handle) DiscardCheckpoint(ctx context.Context, name string) error {
	if err := checkNewOrOld("checkpoint -d", name); err != nil {
		return err
	}
	_, err := h.call(ctx, "checkpoint -d", zcmd.PoolDiscardChk, name, nil)
	return err
}

// Reguid gives a pool a new guid, so that it can be imported beside a copy of itself.
func (h *Handle) Reguid(ctx context.Context, name string) error {
	if err := checkNewOrOld("reguid", name); err != nil {
		return err
	}
	r := h.dev.Request(name)
	defer r.Release()
	return fail("reguid", zcmd.PoolReguid, name, r.DoOnce(ctx, zcmd.PoolReguid))
}
