// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// Event is something that happened to a pool, zpool-events(8).
type Event struct {
	Class   string // "sysevent.fs.zfs.history_event", "ereport.fs.zfs.checksum", …
	Pool    string
	Time    time.Time
	EID     uint64
	Dropped uint64       // how many were lost before it, because nobody read them
	Details *nvlist.List // all that the kernel says
	Err     error        // why there are no more; the last one has it, unless the context ended
}

const (
	eventPoll     = 100 * time.Millisecond
	eventNonBlock = 1 // ZEVENT_NONBLOCK
)

// Events gives the events that happen from now on, and with past also those
// that the kernel still remembers. The channel is closed when the context ends
// or the kernel fails; whoever reads must read on until then.
func (h *Handle) Events(ctx context.Context, past bool) (<-chan Event, error) {
	r := h.dev.Request("")
	dev := h.dev
	if dev.Fd() >= 0 { // the place in the queue belongs to an open file: have one of our own
		own, err := zcmd.Open()
		if err != nil {
			r.Release()
			return nil, &Error{Op: "events", Err: err}
		}
		dev = own
	}
	r.Release()
	e := &eventReader{dev: dev, owned: dev != h.dev, out: make(chan Event)}
	if !past {
		if err := e.seekEnd(ctx); err != nil {
			e.close()
			return nil, err
		}
	}
	go e.run(ctx)
	return e.out, nil
}

type eventReader struct {
	dev   *zcmd.Device
	owned bool
	out   chan Event
}

func (e *eventReader) close() {
	if e.owned {
		_ = e.dev.Close()
	}
}

func (e *eventReader) seekEnd(ctx context.Context) error {
	r := e.dev.Request("")
	defer r.Release()
	r.Cmd.GUID = 1<<64 - 1 // ZEVENT_SEEK_END
	r.Cmd.CleanupFD = e.dev.Fd()
	return fail("events", zcmd.EventsSeek, "", r.DoOnce(ctx, zcmd.EventsSeek))
}

func (e *eventReader) run(ctx context.Context) {
	defer close(e.out)
	defer e.close()
	r := e.dev.Request("")
	defer r.Release()
	tick := time.NewTicker(eventPoll)
	defer tick.Stop()
	for {
		r.Cmd = zcmd.Cmd{}
		r.Cmd.CleanupFD, r.Cmd.GUID = e.dev.Fd(), eventNonBlock
		err := r.Do(ctx, zcmd.EventsNext)
		if errors.Is(err, syscall.ENOENT) { // none yet
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		var ev Event
		if err == nil {
			var l *nvlist.List
			if l, err = r.Reply(); err == nil {
				ev = parseEvent(l, r.Cmd.Cookie)
			}
		}
		ev.Err = fail("events", zcmd.EventsNext, "", err)
		select {
		case <-ctx.Done():
			return
		case e.out <- ev:
		}
		if err != nil {
			return
		}
	}
}

func parseEvent(l *nvlist.List, dropped uint64) Event {
	ev := Event{Class: l.Str("class"), Pool: l.Str("pool"), Dropped: dropped, Details: l}
	if ev.Pool == "" {
		ev.Pool = l.Str("pool_name")
	}
	ev.EID, _ = l.Uint("eid")
	if t, ok := nvlist.Get[[]int64](l, "time"); ok && len(t) == 2 {
		ev.Time = time.Unix(t[0], t[1])
	}
	return ev
}
