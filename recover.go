// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/skepvm/skep/internal/worker/ctl"
)

// adoptPatience is how long a worker of an earlier daemon may take to answer.
const adoptPatience = 10 * time.Second

// recover brings the host to where its records say that it is: it takes back
// what was being made, finishes what was being destroyed, finds the workers
// that run, cleans up after those that do not, and starts what is to be started.
func (h *Host) recover(ctx context.Context) error {
	if err := h.net.setup(ctx); err != nil {
		return err
	}
	records, err := h.store.load(ctx)
	if err != nil {
		return err
	}
	var whole []*Machine
	for _, r := range records {
		m := h.newMachine(r)
		if r.State == StateCreating || r.State == StateDestroying {
			if err := h.takeBack(ctx, m); err != nil {
				return err
			}
			continue
		}
		close(m.made)
		m.progress = Progress{Step: StepDone, Percent: 100}
		whole = append(whole, m)
	}
	for _, m := range whole {
		if err := h.claimAgain(m); err != nil {
			return err
		}
	}
	start := h.findWorkers(ctx, whole)
	for _, m := range whole {
		if m.run() == nil { // what an end that was disturbed has left
			m.removeGroup()
		}
	}
	if err := h.net.sweep(ctx, func(id string) bool { return h.byID(id) != nil }); err != nil {
		return err
	}
	for _, m := range start {
		h.background(func() {
			if err := m.Start(h.ctx); err != nil {
				h.log.Error("machine: start it again", "name", m.key.String(), "id", m.id, "error", err)
			}
		})
	}
	return nil
}

// takeBack removes a machine that was not whole. One that was being created is
// remembered as failed.
func (h *Host) takeBack(ctx context.Context, m *Machine) error {
	was := m.record().State
	if err := h.undo(ctx, append(m.createSteps(), m.runStep())); err != nil {
		return fmt.Errorf("take back machine %s, which was %s: %w", m.key, was, err)
	}
	h.log.Info("machine taken back", "name", m.key.String(), "id", m.id, "was", string(was))
	m.gone = true
	close(m.made)
	if was == StateCreating {
		m.failure = m.wrap("create", errors.New("the daemon ended before it was done; undone"))
		m.progress = Progress{Error: m.failure.Error()}
		h.rememberFailed(m)
	}
	return nil
}

// claimAgain takes in memory what a machine of the store has.
func (h *Host) claimAgain(m *Machine) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := m.rec
	if other := h.machines[m.key]; other != nil {
		return fmt.Errorf("machines %s and %s are both called %s", other.id, m.id, m.key)
	}
	h.machines[m.key] = m
	h.forgetFailed(m.key)
	if r.Address.IsValid() {
		if err := h.pool.ClaimAddr(r.Address.Addr(), r.ID); err != nil {
			// The network was changed under it: it keeps what its guest was told.
			h.log.Warn("machine: its address", "name", m.key.String(), "id", m.id, "error", err)
		}
	}
	return nil
}

// findWorkers looks for the workers of machines that should run. It answers the
// machines that are to be started.
func (h *Host) findWorkers(ctx context.Context, all []*Machine) (start []*Machine) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for _, m := range all {
		r := m.record()
		if r.State == StateStopped {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			again, err := h.findWorker(ctx, m)
			if err != nil {
				h.log.Error("machine: find its worker", "name", m.key.String(), "id", m.id, "error", err)
			}
			if again {
				mu.Lock()
				defer mu.Unlock()
				start = append(start, m)
			}
		})
	}
	wg.Wait()
	// A machine that was stopped when the host went down and has Autostart is
	// left alone: whoever stopped it meant it.
	return start
}

// findWorker takes a machine's worker over, or cleans up after it; again says
// that the machine is to be started.
func (h *Host) findWorker(ctx context.Context, m *Machine) (again bool, err error) {
	r := m.record()
	l := &live{began: r.Run.Began, pid: r.Run.PID, done: make(chan struct{})}
	found, err := m.adopt(ctx, l)
	if found {
		h.mu.Lock()
		h.committed += r.Spec.Memory
		m.reserved = true
		h.mu.Unlock()
		m.setLive(l)
		err = m.agree(ctx, l)
		h.background(func() { m.watch(l) })
		h.log.Info("machine found running", "name", m.key.String(), "id", m.id, "worker", l.pid)
		return false, err
	}
	var v verdict
	switch {
	case err != nil:
		v = verdict{at: time.Now().UTC(), reason: err.Error()}
		err = m.reap(ctx, l)
	case r.Run.Boot != h.boot:
		v = verdict{at: time.Now().UTC(), reason: "host restarted"}
		again = r.Spec.Autostart
	case r.State == StateStarting:
		v = verdict{at: time.Now().UTC(), reason: "the daemon ended while it was being started"}
		again = true
	default:
		v = m.postMortem(l)
	}
	return again, errors.Join(err, m.clean(ctx, l, v))
}

// agree brings the record and a worker that was found to one state. A guest that
// is paused where the record says that it runs was being paused, for the moment
// of a snapshot or for good, when the daemon ended: it runs on.
func (m *Machine) agree(ctx context.Context, l *live) error {
	resp, err := m.ask(ctx, ctl.OpStatus)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.resets = resp.Resets
	m.mu.Unlock()
	switch was := m.record().State; {
	case was == StateStarting:
		return m.update(ctx, func(r *record) { r.State, r.Started = StateRunning, l.began })
	case was == StateRunning && resp.State == ctl.Paused:
		_, err = m.ask(ctx, ctl.OpResume)
		return err
	case was == StatePaused && resp.State == ctl.Running:
		return m.setRunning(StateRunning)
	}
	return nil
}

// adopt connects to a machine's worker; found is false if there is none, and an
// error says that there is one which does not answer.
func (m *Machine) adopt(ctx context.Context, l *live) (found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, adoptPatience)
	defer cancel()
	for {
		held, lerr := lockHeld(m.file(fileLock))
		if lerr != nil || !held {
			return false, lerr
		}
		actx, acancel := context.WithTimeout(ctx, time.Second)
		err = m.connect(actx, l)
		acancel()
		if err == nil {
			return true, nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return false, fmt.Errorf("its worker did not answer within %s: %w", adoptPatience, err)
		}
	}
}
