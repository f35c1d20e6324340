// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/skepvm/skep/internal/worker/ctl"
)

// StopOptions say how patient Stop is.
type StopOptions struct {
	// Force ends the guest at once, as by pulling the plug.
	Force bool
	// Timeout is how long the guest may take after the power button was
	// pressed; then it is ended by force. Default 90 s; negative: never by
	// force, Stop answers with ctx's error instead.
	Timeout time.Duration
}

const (
	defaultStopTimeout = 90 * time.Second
	// askPatience bounds one question to a worker.
	askPatience = 30 * time.Second
	// buttonEvery: a guest that was still booting missed the button.
	buttonEvery = 5 * time.Second
)

// Stop presses the power button and waits until the guest is off, or ends it by
// force as opts say. A machine that is stopped is left alone. A Stop by force
// cuts short one that is patient, and a Start under way, which answers ErrBusy.
func (m *Machine) Stop(ctx context.Context, opts StopOptions) error {
	if opts.Force {
		m.hasten()
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return m.wrap("stop", err)
	}
	defer unlock()
	return m.wrap("stop", m.stopLocked(ctx, opts))
}

// hasten makes a patient Stop that holds the machine use force, and a Start that
// holds it give up.
func (m *Machine) hasten() {
	m.mu.Lock()
	giveUp := m.giveUp
	m.mu.Unlock()
	if giveUp != nil {
		giveUp(errCutShort)
	}
	select {
	case m.hurry <- struct{}{}:
	default:
	}
}

func (m *Machine) stopLocked(ctx context.Context, opts StopOptions) error {
	select { // meant for the one before
	case <-m.hurry:
	default:
	}
	l := m.run()
	if l == nil {
		return nil
	}
	m.pass(StateStopping)
	err := m.end(ctx, l, opts)
	m.pass("")
	return err
}

// end ends a run, patiently or not, and waits until it is cleaned up.
func (m *Machine) end(ctx context.Context, l *live, opts StopOptions) error {
	if !opts.Force {
		over, err := m.askOff(ctx, l, opts.Timeout)
		if over || err != nil {
			return err
		}
	}
	if _, err := m.ask(ctx, ctl.OpKill); err == nil {
		wctx, cancel := context.WithTimeout(ctx, endPatience)
		defer cancel()
		if m.wait(wctx, l) == nil {
			return nil
		}
	}
	if err := m.kill(l); err != nil {
		return fmt.Errorf("kill the worker: %w", err)
	}
	return m.wait(ctx, l)
}

// askOff presses the power button and waits; over is false when force is due.
func (m *Machine) askOff(ctx context.Context, l *live, timeout time.Duration) (over bool, err error) {
	if m.record().State == StatePaused {
		if _, err := m.ask(ctx, ctl.OpResume); err != nil {
			return false, nil
		}
	}
	if timeout == 0 {
		timeout = defaultStopTimeout
	}
	var due <-chan time.Time
	if timeout > 0 {
		t := time.NewTimer(timeout)
		defer t.Stop()
		due = t.C
	}
	again := time.NewTicker(buttonEvery)
	defer again.Stop()
	for {
		if _, err := m.ask(ctx, ctl.OpPower); err != nil {
			m.h.log.Warn("machine: press the power button", "name", m.key.String(), "error", err)
		}
		select {
		case <-l.done:
			return true, nil
		case <-due:
			return false, nil
		case <-m.hurry:
			return false, nil
		case <-m.h.ctx.Done():
			return false, ErrClosed
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-again.C:
		}
	}
}

// ask does one operation of the worker's.
func (m *Machine) ask(ctx context.Context, op ctl.Op) (ctl.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	return ctl.Call(ctx, m.socket(), m.id, op)
}

// Reboot stops the machine as Stop does and starts it again.
func (m *Machine) Reboot(ctx context.Context, opts StopOptions) error {
	if opts.Force {
		m.hasten()
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return m.wrap("reboot", err)
	}
	defer unlock()
	if err := m.stopLocked(ctx, opts); err != nil {
		return m.wrap("reboot", err)
	}
	return m.wrap("reboot", m.startLocked(ctx))
}

// running locks a machine and makes sure that it runs, or is paused.
func (m *Machine) running(ctx context.Context) (unlock func(), err error) {
	unlock, err = m.lock(ctx)
	if err != nil {
		return nil, err
	}
	if m.run() == nil {
		unlock()
		return nil, fmt.Errorf("%w: it is %s", ErrBusy, m.record().State)
	}
	return unlock, nil
}

// Reset restarts a running guest in place, as by the reset button.
func (m *Machine) Reset(ctx context.Context) error {
	return m.tellWorker(ctx, "reset", "", m.asking(ctl.OpReset))
}

// Pause halts the vCPUs; one that is paused is left alone.
func (m *Machine) Pause(ctx context.Context) error {
	return m.tellWorker(ctx, "pause", StatePaused, m.hold)
}

// Resume lets a paused machine run on; one that runs is left alone.
func (m *Machine) Resume(ctx context.Context) error {
	return m.tellWorker(ctx, "resume", StateRunning, m.asking(ctl.OpResume))
}

// hold pauses the guest. The worker may do so after its answer was given up: then,
// and whenever it fails, one that ran runs on.
func (m *Machine) hold(ctx context.Context) error {
	_, err := m.ask(ctx, ctl.OpPause)
	if err != nil && m.record().State != StatePaused {
		err = errors.Join(err, m.letGo(ctx))
	}
	return err
}

// letGo resumes the guest, whatever has become of ctx.
func (m *Machine) letGo(ctx context.Context) error {
	if _, err := m.ask(context.WithoutCancel(ctx), ctl.OpResume); err != nil && m.run() != nil {
		return fmt.Errorf("let it run on: %w", err)
	}
	return nil
}

func (m *Machine) asking(op ctl.Op) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := m.ask(ctx, op)
		return err
	}
}

// tellWorker does something with a machine that runs, and records the state in
// which it is then.
func (m *Machine) tellWorker(ctx context.Context, what string, next State, do func(context.Context) error) error {
	unlock, err := m.running(ctx)
	if err != nil {
		return m.wrap(what, err)
	}
	defer unlock()
	if err = do(ctx); err == nil && next != "" {
		err = m.setRunning(next)
	}
	return m.wrap(what, err)
}

// Destroy ends the machine by force if it runs, a Create under way included,
// and removes all that it has.
func (m *Machine) Destroy(ctx context.Context) error {
	select {
	case <-m.made:
	default:
		if m.cancel == nil {
			break // found in the store
		}
		m.cancel(errUnmade)
		select {
		case <-m.made:
		case <-ctx.Done():
			return m.wrap("destroy", context.Cause(ctx))
		}
		if err := m.Wait(ctx); errors.Is(err, errUnmade) {
			m.forget()
			return nil
		}
	}
	if m.forget() {
		return nil // all that was left was the memory of a failure
	}
	m.hasten()
	unlock, err := m.lockAny(ctx)
	if err != nil {
		return m.wrap("destroy", err)
	}
	defer unlock()
	return m.wrap("destroy", m.destroyLocked(context.WithoutCancel(ctx)))
}

// forget drops the memory of a failed Create; false if there was none.
func (m *Machine) forget() bool {
	m.h.mu.Lock()
	defer m.h.mu.Unlock()
	return m.h.failed[m.key] == m && m.h.forgetFailed(m.key)
}

// destroyLocked destroys. When it fails the machine stays in StateDestroying,
// unless that could not be recorded, and Destroy can be called again.
func (m *Machine) destroyLocked(ctx context.Context) error {
	if err := m.unmake(ctx); err != nil {
		return err
	}
	m.h.unclaim(m)
	m.mu.Lock()
	m.gone = true
	m.mu.Unlock()
	m.tell(Event{Kind: EventGone})
	m.h.log.Info("machine destroyed", "name", m.key.String(), "id", m.id)
	return nil
}

// unmake takes away all that a machine has, its record last.
func (m *Machine) unmake(ctx context.Context) error {
	steps := append(m.createSteps(), m.runStep())
	var unsaved error
	if m.record().State != StateDestroying {
		if err := m.update(ctx, func(r *record) { r.State, r.Reason = StateDestroying, "" }); err != nil {
			// A record that cannot be written, for the disk is full, must not keep
			// what is to go. Without its word that the machine is half gone the
			// store takes it away in one step, which needs no room.
			m.h.log.Warn("machine: destroyed without a record of it", "name", m.key.String(), "id", m.id, "error", err)
			steps, unsaved = []step{m.removal(), m.runStep()}, err
		}
	}
	if l := m.run(); l != nil {
		if err := m.end(ctx, l, StopOptions{Force: true}); err != nil {
			return err
		}
	}
	if err := m.h.undo(ctx, steps); err != nil {
		return errors.Join(err, unsaved)
	}
	return nil
}

// runStep is what a run may have left, to be undone: a worker, a tap, a socket.
func (m *Machine) runStep() step {
	return step{name: "the last run", undo: func(ctx context.Context) error {
		return errors.Join(m.reap(ctx, &live{}), m.unwire(ctx, m.record()))
	}}
}

// Console opens the guest's first serial line. What is read begins with the
// history that the worker kept (at least 64 KiB if there was so much), then
// follows live; what is written the guest gets as input. Any number may be open
// at once; one that does not read is cut off. It ends by Close, or with ctx.
func (m *Machine) Console(ctx context.Context) (io.ReadWriteCloser, error) {
	if m.run() == nil {
		return nil, m.wrap("open console of", fmt.Errorf("%w: it does not run", ErrBusy))
	}
	conn, err := ctl.Dial(ctx, m.socket(), m.id)
	if err != nil {
		return nil, m.wrap("open console of", err)
	}
	if _, err := conn.Do(ctl.OpConsole); err != nil {
		conn.Close()
		return nil, m.wrap("open console of", err)
	}
	return conn, nil
}

// ConsoleLog gives what a machine, running or not, last wrote to its first
// serial line: up to 1 MiB of it.
func (m *Machine) ConsoleLog(ctx context.Context) ([]byte, error) {
	f, err := os.Open(m.file(fileConsole))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, m.wrap("read console log of", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, consoleLimit))
	return b, m.wrap("read console log of", err)
}

// Stats reads the counters of a running machine; ErrBusy if it does not run.
func (m *Machine) Stats(ctx context.Context) (Stats, error) {
	if m.run() == nil {
		return Stats{}, m.wrap("read counters of", fmt.Errorf("%w: it does not run", ErrBusy))
	}
	resp, err := m.ask(ctx, ctl.OpStats)
	if err != nil {
		return Stats{}, m.wrap("read counters of", err)
	}
	r := m.record()
	used, err := m.h.store.diskUsed(r)
	if err != nil {
		return Stats{}, m.wrap("read counters of", err)
	}
	s := Stats{GuestMemory: r.Spec.Memory, DiskUsed: used}
	if resp.Stats != nil {
		s.CPUTime, s.RSS, s.Counters = resp.Stats.CPUTime, resp.Stats.RSS, resp.Stats.Counters
	}
	return s, nil
}
