// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"iter"
	"sync"
	"time"
)

// EventKind says what happened.
type EventKind string

// The kinds of events.
const (
	EventState    EventKind = "state"    // Event.State is new
	EventProgress EventKind = "progress" // Event.Progress is new
	EventReset    EventKind = "reset"    // the guest rebooted in place
	EventGone     EventKind = "gone"     // the machine was destroyed
	EventLost     EventKind = "lost"     // the reader was too slow; Event.Lost events are missing
)

// Event is something that happened to a machine.
type Event struct {
	Time      time.Time `json:"time"`
	Kind      EventKind `json:"kind"`
	Namespace string    `json:"namespace,omitempty"`
	Name      string    `json:"name,omitempty"`
	ID        string    `json:"id,omitempty"`
	State     State     `json:"state,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Progress  *Progress `json:"progress,omitempty"`
	Lost      int       `json:"lost,omitempty"`
}

// maxBehind is how many events a reader may be behind.
const maxBehind = 1024

// Watch gives the events of the machines in namespace (every one if it is
// empty) from now on; the subscription begins before Watch returns. The
// sequence ends with ctx or the Host and can be ranged over once. A reader that
// is more than 1024 events behind loses the oldest and is told by EventLost.
func (h *Host) Watch(ctx context.Context, namespace string) iter.Seq[Event] {
	s := h.hub.subscribe(namespace)
	// Whoever does not range over the sequence is let go with ctx.
	stop := context.AfterFunc(ctx, func() { h.hub.drop(s) })
	return func(yield func(Event) bool) {
		defer stop()
		defer h.hub.drop(s)
		for {
			events, ok := s.take()
			for _, e := range events {
				if ctx.Err() != nil || !yield(e) {
					return
				}
			}
			if !ok {
				return
			}
			<-s.wake
		}
	}
}

// hub hands events to those who watch.
type hub struct {
	mu     sync.Mutex
	subs   map[*subscription]struct{}
	closed bool
}

type subscription struct {
	namespace string
	wake      chan struct{} // of capacity 1

	mu    sync.Mutex
	queue []Event
	lost  int
	over  bool
}

func newHub() *hub { return &hub{subs: map[*subscription]struct{}{}} }

func (b *hub) subscribe(namespace string) *subscription {
	s := &subscription{namespace: namespace, wake: make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		s.end()
	} else {
		b.subs[s] = struct{}{}
	}
	return s
}

func (b *hub) drop(s *subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subs, s)
	s.end()
}

func (b *hub) publish(e Event) {
	e.Time = time.Now().UTC()
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		if s.namespace == "" || s.namespace == e.Namespace {
			s.put(e)
		}
	}
}

func (b *hub) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for s := range b.subs {
		s.end()
	}
	clear(b.subs)
}

func (s *subscription) put(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) >= maxBehind {
		n := len(s.queue) / 2
		s.queue = append(s.queue[:0], s.queue[n:]...)
		s.lost += n
	}
	s.queue = append(s.queue, e)
	s.signal()
}

func (s *subscription) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	s.signal()
}

func (s *subscription) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take empties the queue; ok is false when nothing will follow.
func (s *subscription) take() (events []Event, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost > 0 {
		events = append(events, Event{Time: time.Now().UTC(), Kind: EventLost, Lost: s.lost})
		s.lost = 0
	}
	events = append(events, s.queue...)
	s.queue = nil
	return events, !s.over
}
