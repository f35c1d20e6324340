// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// errInjected is what the faulty parts answer, mostly after the real ones have
// done their work: there is then most to take back.
var errInjected = errors.New("injected")

// faultyStore fails the operation that is called so, once, and no record can
// be saved while it is full.
type faultyStore struct {
	store
	fail *atomic.Value // string
	full *atomic.Bool
}

func (s faultyStore) hit(op string) error {
	if s.fail.CompareAndSwap(op, "") {
		return errInjected
	}
	return nil
}

func (s faultyStore) create(ctx context.Context, r *record) error {
	return errors.Join(s.store.create(ctx, r), s.hit("create"))
}

func (s faultyStore) cloneImage(ctx context.Context, r *record, img warmImage) error {
	return errors.Join(s.store.cloneImage(ctx, r, img), s.hit("clone"))
}

func (s faultyStore) openDisk(ctx context.Context, r *record) (*os.File, error) {
	if err := s.hit("open"); err != nil {
		return nil, err
	}
	return s.store.openDisk(ctx, r)
}

func (s faultyStore) save(ctx context.Context, r *record) error {
	op := "save " + string(r.State)
	if r.Run != nil && r.Run.PID != 0 {
		op += " with its worker"
	}
	if s.full.Load() {
		return errInjected
	}
	if err := s.hit(op); err != nil {
		return err
	}
	return s.store.save(ctx, r)
}

// faultyNet is the same of the network.
type faultyNet struct {
	network
	s faultyStore
}

func (n faultyNet) openTap(ctx context.Context, r *record) (*os.File, error) {
	f, err := n.network.openTap(ctx, r)
	if err == nil && n.s.hit("tap") != nil {
		f.Close()
		return nil, errInjected
	}
	return f, err
}

// TestEveryStepOfCreateIsUndone fails each step of Create in turn, with its work
// done, and looks for what is left.
func TestEveryStepOfCreateIsUndone(t *testing.T) {
	p := newPlace(t)
	var mu sync.Mutex
	var steps []string
	at := map[string]func(){} // what happens at a fault point
	parts := p.parts(func(point string) {
		mu.Lock()
		do := at[point]
		if name, ok := strings.CutPrefix(point, "before "); ok && !strings.HasPrefix(name, "undoing ") && !strings.HasPrefix(name, "saving ") {
			steps = append(steps, name)
		}
		mu.Unlock()
		if do != nil {
			do()
		}
	})
	h, err := open(t.Context(), p.config(), parts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	fail := &atomic.Value{}
	fail.Store("")
	s := faultyStore{h.store, fail, &atomic.Bool{}}
	h.store, h.net = s, faultyNet{h.net, s}

	create(t, h, spec("vm1"))
	p.destroyAll(t, h)
	mu.Lock()
	left := map[string]bool{} // steps that no case has failed yet
	for _, s := range steps {
		left[s] = true
	}
	mu.Unlock()
	if len(left) < 8 {
		t.Fatalf("Create has only the steps %q", steps)
	}

	loseSeed := func() {
		list, _ := filepath.Glob(filepath.Join(p.store(), "machines", "*", prefixNew+fileSeed))
		if len(list) != 1 {
			t.Errorf("seeds being written: %q", list)
		}
		for _, f := range list {
			os.Remove(f)
		}
	}
	killWorker := func() {
		for _, pid := range workersUnder(p.dir) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	for _, c := range []struct {
		step, image, fail, point string
		do                       func()
		want                     string
	}{
		{step: "claim the name", fail: "create", want: "injected"},
		{step: "warm the image", image: "broken", want: "the fake image is broken"},
		{step: "clone the disk", fail: "clone", want: "injected"},
		{step: "clone the disk", fail: "save creating", want: "write the record: injected"},
		{step: "write the seed", point: "created " + fileSeed, do: loseSeed, want: "no such file"},
		{step: "", fail: "save starting", want: "write the record: injected"}, // between two steps
		{step: "wire the network", fail: "tap", want: "injected"},
		{step: "start the worker", fail: "open", want: "injected"},
		{step: "start the worker", fail: "save starting with its worker", want: "write the record: injected"},
		{step: "run the guest", point: "let the worker go", do: killWorker, want: "the worker died: signal: killed"},
		{step: "run the guest", image: "unbuildable", want: "the fake guest cannot be built"},
		{step: "record the run", fail: "save running with its worker", want: "write the record: injected"},
	} {
		name := c.step + ", " + c.fail + c.point + c.image
		mu.Lock()
		clear(at)
		if c.do != nil {
			at[c.point] = c.do
		}
		mu.Unlock()
		fail.Store(c.fail)
		sp := spec("vm1")
		if c.image != "" {
			sp.Image = c.image
		}
		m, err := h.Create(t.Context(), sp)
		if err == nil {
			err = m.Wait(t.Context())
		}
		want := c.want
		if c.step != "" {
			want = c.step + ": " + want
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.step) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "undo ") {
			t.Errorf("%s: it could not be undone: %v", name, err)
		}
		if got, err := h.Get("", "vm1"); err != nil || got.Status().State != StateFailed {
			t.Errorf("%s: Get: %v", name, err)
		}
		p.empty(t, h)
		if t.Failed() {
			t.Fatalf("after %s", name)
		}
		delete(left, c.step)
	}
	for s := range left {
		t.Errorf("the step %q was never made to fail", s)
	}
	mu.Lock()
	clear(at)
	mu.Unlock()
	create(t, h, spec("vm1"))
	p.destroyAll(t, h)
}

// A start of its own that fails leaves a stopped machine that says why, and
// can be started again.
func TestEveryStepOfStartIsUndone(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	fail := &atomic.Value{}
	fail.Store("")
	s := faultyStore{h.store, fail, &atomic.Bool{}}
	h.store, h.net = s, faultyNet{h.net, s}
	m := create(t, h, spec("vm1"))
	for _, op := range []string{"tap", "open", "save starting", "save starting with its worker", "save running with its worker"} {
		if err := m.Stop(t.Context(), StopOptions{}); err != nil {
			t.Fatal(err)
		}
		fail.Store(op)
		if err := m.Start(t.Context()); !errors.Is(err, errInjected) {
			t.Errorf("%s: %v", op, err)
		}
		if st := m.Status(); st.State != StateStopped || !strings.Contains(st.Reason, "could not be started: ") || !strings.Contains(st.Reason, "injected") || st.WorkerPID != 0 {
			t.Errorf("%s: %+v", op, st)
		}
		if pids := workersUnder(p.dir); len(pids) != 0 {
			t.Errorf("%s: workers left: %v", op, pids)
		}
		same(t, "taps after "+op, p.taps(), nil)
		same(t, "sockets after "+op, p.run(), nil)
		h.mu.Lock()
		if h.committed != 0 {
			t.Errorf("%s: %d bytes committed", op, h.committed)
		}
		h.mu.Unlock()
		if err := m.Start(t.Context()); err != nil {
			t.Fatalf("after %s: %v", op, err)
		}
	}
	p.destroyAll(t, h)
}

// Where no record can be saved any more, for the disk is full, what fails and
// what is destroyed goes all the same, and does not come back.
func TestDestroyWithoutRecord(t *testing.T) {
	p := newPlace(t)
	full := &atomic.Bool{}
	from := ""
	h, err := open(t.Context(), p.config(), p.parts(func(point string) {
		if point == from {
			full.Store(true)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	fail := &atomic.Value{}
	fail.Store("")
	s := faultyStore{h.store, fail, full}
	h.store, h.net = s, faultyNet{h.net, s}
	for _, state := range []State{StateRunning, StateStopped} {
		sp := spec("vm1")
		sp.Stopped = state == StateStopped
		m := create(t, h, sp)
		full.Store(true)
		if err := m.Destroy(t.Context()); err != nil {
			t.Errorf("destroy what is %s: %v", state, err)
		}
		p.empty(t, h)
		full.Store(false)
	}
	for _, step := range []string{"wire the network", "start the worker", "run the guest", "record the run"} {
		from = "before " + step
		m, err := h.Create(t.Context(), spec("vm1"))
		if err == nil {
			err = m.Wait(t.Context())
		}
		if !errors.Is(err, errInjected) || strings.Contains(err.Error(), "undo ") {
			t.Errorf("full from %s on: %v", step, err)
		}
		p.empty(t, h)
		full.Store(false)
	}
	h.Close()
	from = ""
	again := p.open(t)
	if left := again.List(""); len(left) != 0 {
		t.Errorf("it came back: %+v", left)
	}
}

// What is done already is done again without harm, one after the other and at
// the same time.
func TestAgain(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	m := create(t, h, spec("vm1"))
	ctx := t.Context()
	both := func(do func() error) []error {
		var errs [3]error
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() { errs[i] = do() })
		}
		wg.Wait()
		errs[2] = do()
		return errs[:]
	}
	for _, x := range []struct {
		name string
		do   func() error
		want State
	}{
		{"stop", func() error { return m.Stop(ctx, StopOptions{}) }, StateStopped},
		{"start", func() error { return m.Start(ctx) }, StateRunning},
		{"pause", func() error { return m.Pause(ctx) }, StatePaused},
		{"resume", func() error { return m.Resume(ctx) }, StateRunning},
		{"stop by force", func() error { return m.Stop(ctx, StopOptions{Force: true}) }, StateStopped},
	} {
		for i, err := range both(x.do) {
			if err != nil {
				t.Errorf("%s, number %d: %v", x.name, i, err)
			}
		}
		if s := m.Status().State; s != x.want {
			t.Errorf("after %s: %s", x.name, s)
		}
		if n, want := len(workersUnder(p.dir)), 1; x.want != StateStopped && n != want {
			t.Errorf("after %s: %d workers", x.name, n)
		}
	}
	done := 0
	for i, err := range both(func() error { return m.Destroy(ctx) }) {
		switch {
		case err == nil:
			done++
		case !errors.Is(err, ErrNotFound):
			t.Errorf("destroy, number %d: %v", i, err)
		}
	}
	if done == 0 {
		t.Error("no Destroy says that it did")
	}
	for what, err := range map[string]error{"start": m.Start(ctx), "stop": m.Stop(ctx, StopOptions{})} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s of a destroyed machine: %v", what, err)
		}
	}
	p.empty(t, h)
}

// An operation that was cut short says by whom, and what could not be undone as well.
func TestRunThatIsCutShort(t *testing.T) {
	h := newPlace(t).open(t)
	defer h.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	left := errors.New("something is left")
	err := h.run(ctx, []step{{
		name: "wait",
		do:   func(ctx context.Context) error { cancel(errCutShort); return ctx.Err() },
		undo: func(context.Context) error { return left },
	}})
	if !errors.Is(err, errCutShort) || !errors.Is(err, left) {
		t.Errorf("%v, want both", err)
	}
	if err := h.run(ctx, []step{{name: "never", do: func(context.Context) error { t.Error("it ran"); return nil }}}); !errors.Is(err, errCutShort) {
		t.Errorf("a run that was cut short before: %v", err)
	}
}
