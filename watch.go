// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/internal/worker"
	"github.com/skepvm/skep/internal/worker/ctl"
	"github.com/skepvm/skep/vmm"
)

var errWorkerDied = errors.New("the worker died")

// watch follows a run until it is over, and cleans up after it. It ends with
// the host too; the worker then runs on.
func (m *Machine) watch(l *live) {
	defer l.hangUp()
	for {
		m.follow(l)
		l.hangUp()
		if m.h.ctx.Err() != nil {
			return
		}
		// The worker's end looks like this, and so does a broken connection.
		if !m.lives(l) {
			break
		}
		if err := m.connect(m.h.ctx, l); err != nil {
			m.h.log.Warn("machine: the worker does not answer", "name", m.key.String(), "id", m.id, "error", err)
			select {
			case <-time.After(time.Second):
			case <-m.h.ctx.Done():
				return
			}
		}
	}
	m.ended(l)
}

// follow reads the worker's events until there are no more.
func (m *Machine) follow(l *live) {
	for l.conn != nil {
		var e ctl.Event
		if err := ctl.ReadFrame(l.conn, &e); err != nil {
			return
		}
		m.mu.Lock()
		reset := e.Resets != m.resets
		m.resets = e.Resets
		m.mu.Unlock()
		if reset {
			m.tell(Event{Kind: EventReset})
		}
		if e.State == ctl.Ended {
			return
		}
		// Running and paused are this daemon's own doing, and recorded by it.
	}
}

// setRunning records whether a machine that runs is paused.
func (m *Machine) setRunning(next State) error {
	if s := m.record().State; s == next || s != StateRunning && s != StatePaused {
		return nil
	}
	return m.update(context.Background(), func(r *record) {
		if r.State == StateRunning || r.State == StatePaused {
			r.State = next
		}
	})
}

// connect opens the watch of a worker that runs already.
func (m *Machine) connect(ctx context.Context, l *live) error {
	cctx, cancel := context.WithCancelCause(m.h.ctx)
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	defer stop()
	conn, err := ctl.Dial(cctx, m.socket(), m.id)
	if err == nil {
		if _, err = conn.Do(ctl.OpWatch); err != nil {
			conn.Close()
		}
	}
	if err != nil {
		cancel(nil)
		return err
	}
	if !conn.Hello.Began.Equal(l.began) {
		m.h.log.Warn("machine: the worker is of another run", "name", m.key.String(), "id", m.id, "began", conn.Hello.Began)
	}
	l.conn, l.stop = conn, cancel
	return nil
}

// lives tells whether a worker has the machine. A worker that has said its last
// word gets a moment to end; one that does not use it is killed.
func (m *Machine) lives(l *live) bool {
	began := time.Now()
	for {
		held, err := lockHeld(m.file(fileLock))
		if err != nil {
			m.h.log.Error("machine: look at the worker's lock", "name", m.key.String(), "error", err)
		}
		if err == nil && !held {
			return false
		}
		_, over := worker.ReadExit(m.file(fileExit), m.id, l.began)
		if !over && time.Since(began) > time.Second {
			return true
		}
		if over && time.Since(began) > endPatience {
			if err := m.kill(l); err != nil {
				m.h.log.Error("machine: kill the worker", "name", m.key.String(), "error", err)
			}
			began = time.Now()
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-m.h.ctx.Done():
			return false
		}
	}
}

// lockHeld tells whether some process has a lock file's lock.
func lockHeld(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false, ignoreNotExist(err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, os.NewSyscallError("flock", err)
}

// unlocked waits until no process has the machine's lock.
func (m *Machine) unlocked(ctx context.Context, patience time.Duration) error {
	for end := time.Now().Add(patience); ; {
		held, err := lockHeld(m.file(fileLock))
		if err != nil || !held {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%w: a worker still has it after %s", ErrBusy, patience)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// kill ends the worker's process at once, if it is known and still the same.
func (m *Machine) kill(l *live) error {
	r := m.record()
	if l.proc != nil {
		return l.proc.Kill()
	}
	if r.Run == nil || r.Run.PID == 0 || r.Run.Boot != m.h.boot {
		return nil
	}
	return killProcess(r.Run.PID, r.Run.Birth)
}

// reap ends a worker, however far it came, and waits until it is gone.
func (m *Machine) reap(ctx context.Context, l *live) error {
	var errs []error
	if l.proc != nil {
		l.proc.Abandon()
	} else {
		errs = append(errs, m.kill(l))
	}
	errs = append(errs, m.unlocked(ctx, endPatience))
	errs = append(errs, vmm.RemoveLeftover(m.id))
	errs = append(errs, ignoreNotExist(os.Remove(m.socket())))
	m.removeGroup()
	return errors.Join(errs...)
}

// verdict is what is known of how a run ended.
type verdict struct {
	reason string
	at     time.Time
}

// postMortem says why a run ended whose worker is gone.
func (m *Machine) postMortem(l *live) verdict {
	e, ok := worker.ReadExit(m.file(fileExit), m.id, l.began)
	if !ok {
		v := verdict{at: time.Now().UTC(), reason: errWorkerDied.Error()}
		if l.proc != nil {
			select {
			case <-l.proc.Done():
				if err := l.proc.Err(); err != nil {
					v.reason += ": " + err.Error()
				}
			case <-time.After(time.Second):
			}
		}
		if why := m.h.limits.Verdict(m.group()); why != "" {
			v.reason += ": " + why
		}
		if tail := logTail(m.file(fileWorker)); tail != "" {
			v.reason += ": " + tail
		}
		return v
	}
	v := verdict{at: e.Time}
	switch e.Kind {
	case ctl.PowerOff:
		v.reason = "powered off by the guest"
	case ctl.Killed:
		v.reason = "ended by force"
	case ctl.TripleFault:
		v.reason = "triple fault"
	case ctl.Halted:
		v.reason = "halted with interrupts off"
	case ctl.Failed:
		v.reason = "failed"
	default:
		v.reason = string(e.Kind)
	}
	if e.Detail != "" {
		v.reason += ": " + e.Detail
	}
	return v
}

// logTail is the last of what a worker wrote to its log: why it panicked, say.
func logTail(path string) string {
	const most = 2 << 10
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > most {
		f.Seek(-most, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, most))
	return strings.ToValidUTF8(strings.TrimSpace(string(b)), "?")
}

// ended cleans up after a run whose worker is gone, and records why it ended.
func (m *Machine) ended(l *live) {
	h := m.h
	ctx := context.Background()
	v := m.postMortem(l)
	if err := m.clean(ctx, l, v); err != nil {
		// What is left is found again by the next Start, Destroy or Open.
		h.log.Error("machine: clean up after its run", "name", m.key.String(), "id", m.id, "error", err)
	}
	h.releaseMemory(m)
	m.mu.Lock()
	m.live, m.passing = nil, ""
	m.mu.Unlock()
	close(l.done)
}

// clean removes what a run used and records its end, unless the machine is
// being destroyed: then its record says so and stays.
func (m *Machine) clean(ctx context.Context, l *live, v verdict) error {
	m.removeGroup()
	errs := []error{
		vmm.RemoveLeftover(m.id),
		m.unwire(ctx, m.record()),
		ignoreNotExist(os.Remove(m.socket())),
		m.update(ctx, func(r *record) {
			r.Stopped, r.Run = v.at, nil
			if r.State != StateDestroying {
				r.State, r.Reason = StateStopped, v.reason
			}
		}),
	}
	return errors.Join(errs...)
}
