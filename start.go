// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/internal/limits"
	"github.com/skepvm/skep/internal/worker"
	"github.com/skepvm/skep/internal/worker/ctl"
)

const (
	// startPatience is how long a worker may take until its guest runs: memory
	// is allocated and a kernel is loaded, which takes a fraction of a second. But
	// FreeBSD's scheduler lets threads that sleep much go before those that compute:
	// on a busy host of one slow processor a worker got 10 ms of it in a second.
	startPatience = 2 * time.Minute
	// endPatience is how long a worker may take to end after its last word, or
	// after SIGKILL.
	endPatience = 10 * time.Second
	// consoleLimit bounds the file of what the guest wrote to its console.
	consoleLimit = MiB
)

// live is one run of a machine's worker, as this daemon sees it.
type live struct {
	began time.Time
	pid   int
	proc  *worker.Process         // nil if another daemon started it
	done  chan struct{}           // closed when the run is over and cleaned up
	conn  *ctl.Conn               // the watch
	stop  context.CancelCauseFunc // ends conn's context
}

// errCutShort is a Start's end by a Stop by force or a Destroy.
var errCutShort = fmt.Errorf("%w: it was stopped by force while it started", ErrBusy)

// Start starts the machine; one that runs already is left alone. A paused one
// is ErrBusy.
func (m *Machine) Start(ctx context.Context) error {
	unlock, err := m.lock(ctx)
	if err != nil {
		return m.wrap("start", err)
	}
	defer unlock()
	return m.wrap("start", m.startLocked(ctx))
}

func (m *Machine) startLocked(ctx context.Context) error {
	switch r := m.record(); r.State {
	case StateRunning:
		return nil
	case StateStopped:
	default:
		return fmt.Errorf("%w: it is %s", ErrBusy, r.State)
	}
	if l := m.run(); l != nil { // it has ended and is being cleaned up
		if err := m.wait(ctx, l); err != nil {
			return err
		}
	}
	if err := m.h.reserve(m); err != nil {
		return err
	}
	old := m.record()
	ctx, giveUp := context.WithCancelCause(ctx)
	m.setGiveUp(giveUp)
	defer m.setGiveUp(nil)
	defer giveUp(nil)
	err := m.update(ctx, func(r *record) {
		r.State, r.Reason, r.Run = StateStarting, "", m.h.newRun(r.ID)
	})
	if err == nil {
		err = m.start(ctx)
	}
	if err != nil {
		err = errors.Join(err, m.update(ctx, func(r *record) {
			r.State, r.Reason, r.Run = StateStopped, "could not be started: "+err.Error(), nil
			r.Stopped = old.Stopped
		}))
		m.h.releaseMemory(m)
	}
	return err
}

func (m *Machine) setGiveUp(f context.CancelCauseFunc) {
	m.mu.Lock()
	m.giveUp = f
	m.mu.Unlock()
}

// start runs a worker for a machine whose record says StateStarting. When it
// fails, nothing of the attempt is left but that record. The machine's
// operation lock is held.
func (m *Machine) start(ctx context.Context) error {
	h, r := m.h, m.record()
	select {
	case h.starting <- struct{}{}:
		defer func() { <-h.starting }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l := &live{began: r.Run.Began, done: make(chan struct{})}
	var tap *os.File
	defer func() {
		if tap != nil {
			tap.Close()
		}
	}()
	steps := []step{{
		name: "wire the network",
		do: func(ctx context.Context) (err error) {
			if r.Tap != "" {
				tap, err = h.net.openTap(ctx, r)
			}
			if err == nil {
				m.advanceTo(StepWired, StepStarted, 90)
			}
			return err
		},
		undo: func(ctx context.Context) error {
			// The worker is gone; FreeBSD waits for whoever else has the tap open.
			if tap != nil {
				tap.Close()
				tap = nil
			}
			return m.unwire(ctx, r)
		},
	}, {
		name: "start the worker",
		do:   func(ctx context.Context) error { return m.spawn(ctx, l, tap) },
		undo: func(ctx context.Context) error { return m.reap(ctx, l) },
	}, {
		name: "run the guest",
		do:   func(ctx context.Context) error { return m.await(ctx, l) },
		undo: func(context.Context) error { return l.hangUp() },
	}, {
		name: "record the run",
		do: func(ctx context.Context) error {
			m.setLive(l) // before anybody reads that it runs
			return m.update(ctx, func(r *record) {
				r.State, r.Started = StateRunning, l.began
			})
		},
		undo: func(context.Context) error { m.setLive(nil); return nil },
	}}
	if err := h.run(ctx, steps); err != nil {
		return err
	}
	if !h.background(func() { m.watch(l) }) {
		l.hangUp() // the host is being closed; the next Open finds the worker
	}
	return nil
}

// advanceTo moves Create's progress; a Start of its own has none.
func (m *Machine) advanceTo(done, doing Step, percent int) {
	select {
	case <-m.made:
	default:
		m.advance(stepDone(done, doing, percent))
	}
}

func (m *Machine) setLive(l *live) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.live, m.resets = l, 0
}

// unwire removes the machine's tap, if it is there.
func (m *Machine) unwire(ctx context.Context, r *record) error {
	if r.Tap == "" {
		return nil
	}
	return m.h.net.removeTap(ctx, r)
}

func (m *Machine) socket() string { return filepath.Join(m.h.cfg.RunDir, m.id+".sock") }

// spawn starts the worker, writes down which process it is, and lets it go.
func (m *Machine) spawn(ctx context.Context, l *live, tap *os.File) error {
	h, r := m.h, m.record()
	files := map[string]*os.File{}
	defer func() {
		for n, f := range files {
			if n != worker.FileTap { // the caller's
				f.Close()
			}
		}
	}()
	if err := m.openFiles(ctx, r, tap, files); err != nil {
		return err
	}
	log := files[fileWorker]
	delete(files, fileWorker)
	defer log.Close()
	uid, err := m.takeUID(files)
	if err != nil {
		return err
	}
	h.fault("opened the worker's files")
	group := m.makeGroup(r)
	if group != nil {
		defer group.Close()
	}
	h.fault("made the worker's group")
	cfg := worker.Config{
		Machine: r.ID, Name: r.key().String(), CPUs: r.Spec.CPUs, Memory: r.Spec.Memory,
		Cmdline: r.Image.Cmdline, MAC: r.MAC, MTU: h.cfg.Network.MTU,
		Owner: uint32(os.Geteuid()), Began: l.began, Sandbox: !h.cfg.NoSandbox, UID: uid,
		LogLimit: consoleLimit,
	}
	p, err := worker.Spawn(worker.Command{Argv: h.cfg.Worker, Log: log, Group: group}, cfg, files)
	if err != nil && group != nil { // by a kernel before 5.7, or where clone3(2) is forbidden
		h.log.Warn("machine: start its worker in a control group", "name", m.key.String(), "id", m.id, "error", err)
		p, err = worker.Spawn(worker.Command{Argv: h.cfg.Worker, Log: log}, cfg, files)
	}
	if err != nil {
		return err
	}
	l.proc, l.pid = p, p.PID
	m.bind(r, p.PID)
	h.fault("spawned the worker")
	birth, err := processBirth(p.PID)
	if err != nil {
		return err
	}
	err = m.update(ctx, func(r *record) {
		run := *r.Run
		run.PID, run.Birth = p.PID, birth
		r.Run = &run
	})
	if err != nil {
		return err
	}
	err = p.Go()
	h.fault("let the worker go")
	return err
}

// newRun is a run that begins now.
func (h *Host) newRun(id string) *run {
	r := &run{Boot: h.boot, Began: time.Now().UTC()}
	if !h.cfg.NoSandbox {
		r.Group = h.limits.Place(id)
	}
	return r
}

// group is where this host has the machine's worker; empty if nowhere.
func (m *Machine) group() string {
	if r := m.record().Run; r != nil && r.Boot == m.h.boot {
		return r.Group
	}
	return ""
}

// makeGroup makes the control group of a worker. Limits are a second wall: a machine
// starts without those that cannot be had.
func (m *Machine) makeGroup(r *record) *os.File {
	group, err := m.h.limits.Make(m.group(), bounds(r))
	if err != nil {
		m.h.log.Warn("machine: limits of its worker", "name", m.key.String(), "id", m.id, "error", err)
	}
	return group
}

// bind puts limits on a worker that runs and was not let go.
func (m *Machine) bind(r *record, pid int) {
	if m.h.cfg.NoSandbox {
		return
	}
	if err := m.h.limits.Bind(pid, bounds(r)); err != nil {
		m.h.log.Warn("machine: limits of its worker", "name", m.key.String(), "id", m.id, "error", err)
	}
}

// removeGroup removes the control groups that a worker which has ended may have: the
// one of its run, and the one that this daemon would give it.
func (m *Machine) removeGroup() {
	places := []string{m.group(), m.h.limits.Place(m.id)}
	for _, place := range slices.Compact(places) {
		if err := m.h.limits.Remove(place); err != nil {
			m.h.log.Warn("machine: the worker's limits", "name", m.key.String(), "id", m.id, "error", err)
		}
	}
}

func bounds(r *record) limits.Bounds {
	return limits.Bounds{CPUs: r.Spec.CPUs, Memory: r.Spec.Memory}
}

// openFiles opens all that a worker needs, and its log besides.
func (m *Machine) openFiles(ctx context.Context, r *record, tap *os.File, files map[string]*os.File) error {
	dir := m.h.store.dir(r)
	for _, f := range []struct {
		name, file string
		flag       int
		optional   bool
	}{
		{worker.FileLock, fileLock, os.O_RDWR | os.O_CREATE, false},
		{worker.FileExit, fileExit, os.O_RDWR | os.O_CREATE, false},
		{worker.FileLog, fileConsole, os.O_RDWR | os.O_CREATE, false},
		{fileWorker, fileWorker, os.O_WRONLY | os.O_CREATE | os.O_APPEND, false},
		{worker.FileSeed, fileSeed, os.O_RDONLY, false},
		{worker.FileKernel, fileKernel, os.O_RDONLY, true},
		{worker.FileInitrd, fileInitrd, os.O_RDONLY, true},
	} {
		file, err := os.OpenFile(filepath.Join(dir, f.file), f.flag, 0o600)
		if f.optional && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		files[f.name] = file
		if f.name == worker.FileLock { // first, so that a run's files are not touched
			if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
				return fmt.Errorf("%w: a worker of it still runs: flock: %w", ErrBusy, err)
			}
		}
	}
	for _, f := range []*os.File{files[worker.FileExit], files[fileWorker]} {
		if err := f.Truncate(0); err != nil {
			return err
		}
	}
	disk, err := m.h.store.openDisk(ctx, r)
	if err != nil {
		return err
	}
	files[worker.FileDisk] = disk
	if tap != nil {
		files[worker.FileTap] = tap
	}
	listen, err := worker.Listen(ctx, m.socket())
	if err != nil {
		return err
	}
	files[worker.FileListen] = listen
	return nil
}

// await connects to the worker and waits until its guest runs.
func (m *Machine) await(ctx context.Context, l *live) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("the guest did not run within %s", startPatience))
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	dctx, dcancel := context.WithCancelCause(m.h.ctx)
	l.stop = dcancel // conn lives on
	go func() {      // a worker that dies before it accepts leaves the dialer waiting
		select {
		case <-l.proc.Done():
			dcancel(errWorkerDied)
		case <-ctx.Done():
			dcancel(context.Cause(ctx))
		case <-stop:
		}
	}()
	err := m.awaitRunning(dctx, l)
	if err == nil {
		return nil
	}
	dcancel(nil)
	select {
	case <-l.proc.Done():
	case <-time.After(time.Second):
		return err // it lives: what was seen is what there is to say
	}
	return errors.New(m.postMortem(l).reason)
}

func (m *Machine) awaitRunning(ctx context.Context, l *live) error {
	conn, err := ctl.Dial(ctx, m.socket(), m.id)
	if err != nil {
		return err
	}
	l.conn = conn
	if _, err = conn.Do(ctl.OpWatch); err != nil {
		return err
	}
	for {
		var e ctl.Event
		if err := ctl.ReadFrame(conn, &e); err != nil {
			return fmt.Errorf("worker's events: %w", because(ctx, err))
		}
		switch {
		case e.State == ctl.Ended && e.Exit != nil && e.Exit.Kind == ctl.Failed:
			return errors.New(e.Exit.Detail)
		case e.State != ctl.Starting:
			return nil // a guest that has ended already did run
		}
	}
}

// hangUp ends the watch, not the worker.
func (l *live) hangUp() error {
	if l.stop != nil {
		l.stop(nil)
	}
	if l.conn == nil {
		return nil
	}
	conn := l.conn
	l.conn = nil
	return conn.Close()
}

// wait waits until a run is over and cleaned up.
func (m *Machine) wait(ctx context.Context, l *live) error {
	select {
	case <-l.done:
		return nil
	case <-m.h.ctx.Done():
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// takeUID says which user a machine's worker becomes, 0 if it stays who it is, and
// adds to its files the one, if any, by which that user is its own. By its address,
// or its ID, a machine is mostly the same user.
func (m *Machine) takeUID(files map[string]*os.File) (uint32, error) {
	if m.h.cfg.NoSandbox || os.Geteuid() != 0 {
		return 0, nil
	}
	n, _ := strconv.ParseUint(m.id[:4], 16, 16)
	if a := m.record().Address; a.IsValid() {
		n = uint64(be32(a.Addr().As4()))
	}
	uid, held, err := holdUID(m.h.cfg.WorkerUID, uint16(n))
	if held != nil {
		files[worker.FileUser] = held
	}
	return uid, err
}
