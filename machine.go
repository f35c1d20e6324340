// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
)

// Machine is a handle on one machine of a Host. It stays good when the machine
// is destroyed: its methods then answer ErrNotFound.
type Machine struct {
	h   *Host
	id  string
	key key

	// op is held by the operation that changes the machine; of capacity 1.
	op chan struct{}
	// hurry tells a patient Stop that somebody asked for force; of capacity 1.
	hurry chan struct{}
	// giveUp ends a Start under way; nil while there is none. Guarded by mu.
	giveUp context.CancelCauseFunc
	// made is closed when Create is over, well or not.
	made   chan struct{}
	cancel context.CancelCauseFunc // of Create; nil for a machine found in the store

	reserved bool // memory of the host's; guarded by h.mu

	save sync.Mutex // held while a record is written; taken before mu

	mu       sync.Mutex
	rec      *record
	passing  State // StateStopping while it stops, else empty
	gone     bool  // destroyed, or its Create failed
	failure  error // why Create failed
	progress Progress
	moved    chan struct{} // closed and renewed when progress changes
	live     *live         // the present run; nil when there is none
	resets   int
}

func (h *Host) newMachine(r *record) *Machine {
	return &Machine{
		h: h, id: r.ID, key: r.key(), rec: r,
		op:    make(chan struct{}, 1),
		hurry: make(chan struct{}, 1),
		made:  make(chan struct{}),
		moved: make(chan struct{}),
	}
}

// ID is the machine's own for ever; see Status.ID.
func (m *Machine) ID() string { return m.id }

// Namespace is where the machine's name lives.
func (m *Machine) Namespace() string { return m.key.namespace }

// Name is the machine's name.
func (m *Machine) Name() string { return m.key.name }

func (m *Machine) record() *record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec
}

func (m *Machine) run() *live {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.live
}

// wrap says of an error what was tried on which machine.
func (m *Machine) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s machine %s: %w", op, m.key, err)
}

// lock waits for the machine and keeps others from changing it. A machine that
// is being created is ErrBusy, one that is gone ErrNotFound.
func (m *Machine) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case <-m.made:
	default:
		return nil, fmt.Errorf("%w: it is being created", ErrBusy)
	}
	return m.lockAny(ctx)
}

func (m *Machine) lockAny(ctx context.Context) (unlock func(), err error) {
	select {
	case m.op <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: another operation holds it: %w", ErrBusy, context.Cause(ctx))
	}
	unlock = func() { <-m.op }
	m.mu.Lock()
	gone := m.gone
	m.mu.Unlock()
	if gone {
		unlock()
		return nil, ErrNotFound
	}
	if m.h.ctx.Err() != nil {
		unlock()
		return nil, ErrClosed
	}
	return unlock, nil
}

// update changes the record, on disk and then in memory, and tells those who
// watch. change works on a copy and must replace what it points to, not write
// into it.
func (m *Machine) update(ctx context.Context, change func(r *record)) error {
	m.save.Lock()
	defer m.save.Unlock()
	old := m.record()
	r := *old
	change(&r)
	m.h.fault("before saving " + string(r.State))
	if err := m.h.store.save(context.WithoutCancel(ctx), &r); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	m.h.fault("saved " + string(r.State))
	m.mu.Lock()
	m.rec = &r
	m.mu.Unlock()
	if old.State != r.State {
		m.tellState(r.State, r.Reason)
	}
	return nil
}

func (m *Machine) tell(e Event) {
	e.Namespace, e.Name, e.ID = m.key.namespace, m.key.name, m.id
	m.h.hub.publish(e)
}

func (m *Machine) tellState(s State, reason string) {
	m.tell(Event{Kind: EventState, State: s, Reason: reason})
	m.h.log.Info("machine", "name", m.key.String(), "id", m.id, "state", string(s), "reason", reason)
}

// pass sets a state that is not worth a record.
func (m *Machine) pass(s State) {
	m.mu.Lock()
	m.passing = s
	m.mu.Unlock()
	if s != "" {
		m.tellState(s, "")
	}
}

// Status is the machine as it is now.
func (m *Machine) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.rec
	s := Status{
		ID: r.ID, Spec: r.Spec.clone(), State: r.State, Reason: r.Reason, Progress: m.progress,
		Created: r.Created, Started: r.Started, Stopped: r.Stopped,
		Address: r.Address, Gateway: r.Gateway, MAC: slices.Clone(r.MAC), Tap: r.Tap,
		User: r.Spec.User, OS: r.Image.OS, Profile: r.Image.Profile, Emulator: emulator,
		Resets: m.resets,
	}
	if s.User == "" {
		s.User = r.Image.User
	}
	if m.passing != "" {
		s.State = m.passing
	}
	if m.failure != nil {
		s.State, s.Reason = StateFailed, m.failure.Error()
	}
	if m.live != nil {
		s.WorkerPID = m.live.pid
	}
	return s
}

// advance publishes how far Create has come.
func (m *Machine) advance(change func(p *Progress)) {
	m.mu.Lock()
	p := m.progress
	change(&p)
	if p == m.progress {
		m.mu.Unlock()
		return
	}
	m.progress = p
	close(m.moved)
	m.moved = make(chan struct{})
	m.mu.Unlock()
	m.tell(Event{Kind: EventProgress, Progress: &p})
}

// Progress gives how far Create has come, now and whenever that changes, until
// it is done or failed. Of changes in quick succession the last is given.
func (m *Machine) Progress() iter.Seq[Progress] {
	return func(yield func(Progress) bool) {
		for first, last := true, (Progress{}); ; {
			m.mu.Lock()
			p, moved := m.progress, m.moved
			m.mu.Unlock()
			if (first || p != last) && !yield(p) {
				return
			}
			first, last = false, p
			if p.Step == StepDone || p.Error != "" {
				return
			}
			<-moved
		}
	}
}

// Wait waits until Create is done and answers why it failed, if it did.
func (m *Machine) Wait(ctx context.Context) error {
	select {
	case <-m.made:
	case <-ctx.Done():
		return m.wrap("wait for", context.Cause(ctx))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failure
}
