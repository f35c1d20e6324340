// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/worker/ctl"
)

func TestLife(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	m := create(t, h, spec("vm1"))
	s := m.Status()
	if s.State != StateRunning || s.WorkerPID == 0 || !s.Address.IsValid() || s.User != "debian" {
		t.Fatalf("after Create: %+v", s)
	}
	if fi, err := os.Stat(m.file(fileDisk)); err != nil || fi.Size() != 8*MiB {
		t.Errorf("disk: %v, %v", fi, err)
	}
	b, err := os.ReadFile(m.file(fileDisk))
	if err != nil || string(b[2*MiB:2*MiB+5]) != "image" {
		t.Errorf("the disk is not the image's: %v", err)
	}
	ctx := t.Context()
	if err := m.Start(ctx); err != nil {
		t.Errorf("Start of a running machine: %v", err)
	}
	if _, err := h.Create(ctx, spec("vm1")); !errors.Is(err, ErrExists) {
		t.Errorf("second Create: %v", err)
	}
	if err := m.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	if s := m.Status().State; s != StatePaused {
		t.Errorf("after Pause: %s", s)
	}
	if err := m.Start(ctx); !errors.Is(err, ErrBusy) {
		t.Errorf("Start of a paused machine: %v", err)
	}
	if err := m.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the reset is counted", func() bool { return m.Status().Resets == 1 })
	if st, err := m.Stats(ctx); err != nil || st.Counters["fake"] != 1 || st.RSS == 0 {
		t.Errorf("Stats: %+v, %v", st, err)
	}
	if err := m.Stop(ctx, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	s = m.Status()
	if s.State != StateStopped || s.Reason != "powered off by the guest" || s.WorkerPID != 0 {
		t.Errorf("after Stop: %+v", s)
	}
	if err := m.Stop(ctx, StopOptions{}); err != nil {
		t.Errorf("Stop of a stopped machine: %v", err)
	}
	if err := m.Pause(ctx); !errors.Is(err, ErrBusy) {
		t.Errorf("Pause of a stopped machine: %v", err)
	}
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.Reboot(ctx, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := m.Status(); s.State != StateRunning {
		t.Errorf("after Reboot: %+v", s)
	}
	p.destroyAll(t, h)
	if err := m.Start(ctx); !errors.Is(err, ErrNotFound) {
		t.Errorf("Start of a destroyed machine: %v", err)
	}
	if _, err := h.Get("", "vm1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get of a destroyed machine: %v", err)
	}
}

func typeLine(t *testing.T, m *Machine, line string) {
	t.Helper()
	c, err := m.Console(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprintln(c, line); err != nil {
		t.Fatal(err)
	}
	for sc := bufio.NewScanner(c); sc.Scan(); {
		if sc.Text() == "got "+line {
			return
		}
	}
	if line == "die" {
		return // perhaps before it could say so
	}
	t.Fatalf("the guest did not get %q", line)
}

func TestConsole(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	m := create(t, h, spec("vm1"))
	typeLine(t, m, "first")
	a, err := m.Console(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	want := []string{"booted", "got first"}
	for sc := bufio.NewScanner(a); len(want) > 0; want = want[1:] {
		if !sc.Scan() || sc.Text() != want[0] {
			t.Fatalf("history: %q, want %q (%v)", sc.Text(), want[0], sc.Err())
		}
	}
	typeLine(t, m, "poweroff")
	eventually(t, "it stops", func() bool { return m.Status().State == StateStopped })
	b, err := m.ConsoleLog(t.Context())
	if err != nil || !strings.Contains(string(b), "got poweroff") {
		t.Errorf("log: %q, %v", b, err)
	}
	if _, err := m.Console(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("Console of a stopped machine: %v", err)
	}
	p.destroyAll(t, h)
}

func TestHowGuestsEnd(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	for _, c := range []struct{ name, line, reason string }{
		{"off", "poweroff", "powered off by the guest"},
		{"fault", "triple", "triple fault: rip=0"},
		{"dies", "die", "the worker died: exit status 3"},
	} {
		m := create(t, h, spec(c.name))
		typeLine(t, m, c.line)
		eventually(t, "it stops", func() bool { return m.Status().State == StateStopped })
		if r := m.Status().Reason; r != c.reason {
			t.Errorf("%s: reason %q, want %q", c.line, r, c.reason)
		}
		if err := m.Start(t.Context()); err != nil {
			t.Errorf("start again after %s: %v", c.line, err)
		}
	}
	m := create(t, h, spec("killed"))
	if err := syscall.Kill(m.Status().WorkerPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it stops", func() bool { return m.Status().State == StateStopped })
	if r := m.Status().Reason; r != "the worker died: signal: killed" {
		t.Errorf("reason %q", r)
	}
	p.destroyAll(t, h)
}

func TestStopOfADeafGuest(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	m := create(t, h, spec("vm1"))
	typeLine(t, m, "deaf")
	if err := m.Stop(t.Context(), StopOptions{Timeout: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if r := m.Status().Reason; r != "ended by force" {
		t.Errorf("reason %q", r)
	}
	// One that waits for ever is cut short by one that forces.
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	typeLine(t, m, "deaf")
	first := make(chan error, 1)
	go func() { first <- m.Stop(t.Context(), StopOptions{Timeout: -1}) }()
	eventually(t, "it is stopping", func() bool { return m.Status().State == StateStopping })
	if err := m.Stop(t.Context(), StopOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := <-first; err != nil {
		t.Errorf("the patient Stop: %v", err)
	}
	// And its context ends it.
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	typeLine(t, m, "deaf")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := m.Stop(ctx, StopOptions{Timeout: -1}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Stop: %v", err)
	}
	if s := m.Status().State; s != StateRunning {
		t.Errorf("after a Stop that gave up: %s", s)
	}
	p.destroyAll(t, h)
}

// A Start that waits for its turn, or for a worker that does not get to its guest,
// ends when force is asked for.
func TestStartIsCutShort(t *testing.T) {
	p := newPlace(t)
	spawned := make(chan struct{}, 1)
	h, err := open(t.Context(), p.config(), p.parts(func(point string) {
		if point == "before run the guest" {
			spawned <- struct{}{}
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	s := spec("vm1")
	s.Image, s.Stopped = "stalls", true
	for what, end := range map[string]func(*Machine) error{
		"stop":    func(m *Machine) error { return m.Stop(t.Context(), StopOptions{Force: true}) },
		"destroy": func(m *Machine) error { return m.Destroy(t.Context()) },
	} {
		for _, turn := range []bool{false, true} {
			m := create(t, h, s)
			for range cap(h.starting) {
				if !turn {
					h.starting <- struct{}{}
				}
			}
			started := make(chan error, 1)
			go func() { started <- m.Start(t.Context()) }()
			eventually(t, "it starts", func() bool { return m.Status().State == StateStarting })
			if turn {
				<-spawned
			}
			if err := end(m); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if err := <-started; !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "stopped by force while it started") {
				t.Errorf("%s: the start answered %v", what, err)
			}
			for len(h.starting) > 0 {
				<-h.starting
			}
			if what == "stop" {
				if s := m.Status(); s.State != StateStopped {
					t.Errorf("it is %s: %s", s.State, s.Reason)
				}
				if err := m.Destroy(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
	}
	p.destroyAll(t, h)
}

func TestCreateThatFails(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	for image, want := range map[string]string{
		"broken":      "warm the image: the fake image is broken",
		"unbuildable": "the fake guest cannot be built",
		"panics":      "the fake guest panics",
	} {
		s := spec("vm1")
		s.Image = image
		m, err := h.Create(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		err = m.Wait(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("%s: %v", image, err)
		}
		var last Progress
		for last = range m.Progress() {
		}
		if last.Error == "" {
			t.Errorf("%s: progress ended as %+v", image, last)
		}
		got, err := h.Get("", "vm1")
		if err != nil {
			t.Fatal(err)
		}
		if s := got.Status(); s.State != StateFailed || !strings.Contains(s.Reason, want) {
			t.Errorf("%s: status %s, %q", image, s.State, s.Reason)
		}
		if n := len(h.List("")); n != 0 {
			t.Errorf("%s: %d machines listed", image, n)
		}
		p.empty(t, h)
	}
	m := create(t, h, spec("vm1")) // the name was not burnt
	if got, err := h.Get("", "vm1"); err != nil || got != m {
		t.Errorf("Get: %v, %v", got, err)
	}
	p.destroyAll(t, h)
}

func TestDestroyWhileCreating(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	h.images.(*fakeImages).block = make(chan struct{})
	m, err := h.Create(t.Context(), spec("vm1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("Start while it is created: %v", err)
	}
	if err := m.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Get("", "vm1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
	p.empty(t, h)
}

// TestProgress: who follows a Create sees every step, in order, and the percents
// rise to 100. The last of an image's bytes have the percents of the step behind it.
func TestProgress(t *testing.T) {
	for _, c := range []struct {
		stopped bool
		want    string
	}{
		{false, "claimed>image image>cloned cloned>seeded seeded>wired wired>started done>"},
		{true, "claimed>image image>cloned cloned>seeded seeded>wired done>"},
	} {
		p := newPlace(t)
		// Progress skips what nobody was there to see, so the steps wait.
		var mu sync.Mutex
		var m *Machine
		var seen Progress
		fault := func(string) {
			for range 5000 {
				mu.Lock()
				ok := m == nil || m.Status().Progress == seen
				mu.Unlock()
				if ok {
					return
				}
				time.Sleep(time.Millisecond)
			}
			t.Errorf("nobody was told of %v", m.Status().Progress)
		}
		h, err := open(t.Context(), p.config(), p.parts(fault))
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		block := make(chan struct{})
		h.images.(*fakeImages).block = block
		s := spec("vm1")
		s.Stopped = c.stopped
		made, err := h.Create(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		m = made
		mu.Unlock()
		close(block)
		var steps []string
		last := Progress{Percent: -1}
		for now := range made.Progress() {
			if step := string(now.Step) + ">" + string(now.Doing); len(steps) == 0 || steps[len(steps)-1] != step {
				steps = append(steps, step)
			}
			if now.Percent < last.Percent || now.Error != "" {
				t.Errorf("%v after %v", now, last)
			}
			last = now
			mu.Lock()
			seen = now
			mu.Unlock()
		}
		if got := strings.Join(steps, " "); got != c.want || last.Percent != 100 {
			t.Errorf("steps %s, want %s; the last is %v", got, c.want, last)
		}
		if err := made.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		mu.Lock()
		m = nil
		mu.Unlock()
		p.destroyAll(t, h)
	}
}

func TestCloseWhileCreating(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	h.images.(*fakeImages).block = make(chan struct{})
	m, err := h.Create(t.Context(), spec("vm1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(t.Context()); err == nil {
		t.Error("Create did not fail")
	}
	if _, err := h.Create(t.Context(), spec("vm2")); !errors.Is(err, ErrClosed) {
		t.Errorf("Create on a closed host: %v", err)
	}
	p.empty(t, p.open(t))
}

func TestRoom(t *testing.T) {
	p := newPlace(t)
	h := p.open(t, func(c *Config) {
		c.Limits.Memory = 256 * MiB
		c.Limits.PerNamespace = 4
		c.Limits.DiskOvercommit = 1
		c.Limits.CPUs = 4
	})
	big := spec("big")
	big.Memory = 512 * MiB
	wide := spec("wide")
	wide.Disk = 60 * TiB
	many := spec("many")
	many.CPUs = 5
	for _, s := range []MachineSpec{big, wide} {
		if _, err := h.Create(t.Context(), s); !errors.Is(err, ErrNoSpace) {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
	if _, err := h.Create(t.Context(), many); !errors.Is(err, ErrInvalid) {
		t.Errorf("many: %v", err)
	}
	for i := range 4 {
		create(t, h, spec(fmt.Sprintf("vm%d", i)))
	}
	s := spec("more")
	if _, err := h.Create(t.Context(), s); !errors.Is(err, ErrNoSpace) {
		t.Errorf("namespace full: %v", err)
	}
	s.Namespace = "other"
	if _, err := h.Create(t.Context(), s); !errors.Is(err, ErrNoSpace) {
		t.Errorf("memory full: %v", err)
	}
	s.Stopped = true
	m := create(t, h, s)
	if err := m.Start(t.Context()); !errors.Is(err, ErrNoSpace) {
		t.Errorf("Start without memory: %v", err)
	}
	if s := m.Status().State; s != StateStopped {
		t.Errorf("state %s", s)
	}
	vm0, _ := h.Get("", "vm0")
	if err := vm0.Stop(t.Context(), StopOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Errorf("Start with memory: %v", err)
	}
	p.destroyAll(t, h)
}

func TestReopen(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	runs, stopped := create(t, h, spec("runs")), create(t, h, spec("stopped"))
	paused := create(t, h, spec("paused"))
	dies := create(t, h, spec("dies"))
	if err := stopped.Stop(t.Context(), StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := paused.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	typeLine(t, runs, "before")
	if _, err := open(t.Context(), p.config(), p.parts(func(string) {})); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open: %v", err)
	}
	was := runs.Status()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(dies.Status().WorkerPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h = p.open(t)
	want := map[string]State{"runs": StateRunning, "stopped": StateStopped, "paused": StatePaused, "dies": StateStopped}
	for _, s := range h.List("") {
		if s.State != want[s.Spec.Name] {
			t.Errorf("%s is %s (%s)", s.Spec.Name, s.State, s.Reason)
		}
		delete(want, s.Spec.Name)
	}
	if len(want) != 0 {
		t.Errorf("lost: %v", want)
	}
	m, err := h.Get("", "runs")
	if err != nil {
		t.Fatal(err)
	}
	if s := m.Status(); s.WorkerPID != was.WorkerPID || s.Address != was.Address || s.ID != was.ID {
		t.Errorf("before %+v, after %+v", was, s)
	}
	c, err := m.Console(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sc := bufio.NewScanner(c)
	sc.Scan()
	if !sc.Scan() || sc.Text() != "got before" {
		t.Errorf("history after reopening: %q", sc.Text())
	}
	if err := m.Stop(t.Context(), StopOptions{}); err != nil {
		t.Fatal(err)
	}
	p.destroyAll(t, h)
}

func TestHostRestarted(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	for _, name := range []string{"auto", "plain"} {
		s := spec(name)
		s.Autostart = name == "auto"
		m := create(t, h, s)
		// As if the host had gone down: no worker, and the boot is another.
		l := m.run()
		l.proc.Kill()
		<-l.proc.Done()
		eventually(t, "it stops", func() bool { return m.Status().State == StateStopped })
		err := m.update(t.Context(), func(r *record) {
			r.State, r.Run = StateRunning, &run{Boot: "another", Began: l.began, PID: 1, Birth: "0"}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	h.Close()
	h = p.open(t)
	m, _ := h.Get("", "plain")
	if s := m.Status(); s.State != StateStopped || s.Reason != "host restarted" {
		t.Errorf("plain is %s: %s", s.State, s.Reason)
	}
	m, _ = h.Get("", "auto")
	eventually(t, "auto is started", func() bool { return m.Status().State == StateRunning })
	p.destroyAll(t, h)
}

// A caller who does not wait for the end of a pause leaves the guest running, as
// the record says.
func TestPauseGivenUp(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	m := create(t, h, spec("vm1"))
	typeLine(t, m, "heavy")
	for what, do := range map[string]func(context.Context) error{
		"snapshot": func(ctx context.Context) error { return m.Snapshot(ctx, "a") },
		"pause":    m.Pause,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := do(ctx)
		cancel()
		if err == nil {
			t.Errorf("%s was not given up", what)
		}
		if s := m.Status().State; s != StateRunning {
			t.Errorf("after a %s that was given up it is %s", what, s)
		}
		time.Sleep(400 * time.Millisecond) // until the pause has come about
		eventually(t, "the guest runs on", func() bool {
			r, err := m.ask(t.Context(), ctl.OpStatus)
			return err == nil && r.State == ctl.Running
		})
	}
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if m.Pause(ctx) == nil {
		t.Error("pause of a paused machine was not given up")
	}
	time.Sleep(400 * time.Millisecond)
	if r, err := m.ask(t.Context(), ctl.OpStatus); err != nil || r.State != ctl.Paused || m.Status().State != StatePaused {
		t.Errorf("a machine that was paused is %v, recorded as %v (%v)", r.State, m.Status().State, err)
	}
	p.destroyAll(t, h)
}

func TestSnapshots(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	m := create(t, h, spec("vm1"))
	ctx := t.Context()
	put := func(m *Machine, s string) {
		f, err := os.OpenFile(m.file(fileDisk), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt([]byte(s), 4096)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	get := func(m *Machine) string {
		b, err := os.ReadFile(m.file(fileDisk))
		if err != nil {
			t.Fatal(err)
		}
		return string(b[4096:4100])
	}
	put(m, "one.")
	if err := m.Snapshot(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if s := m.Status().State; s != StateRunning {
		t.Errorf("after Snapshot it is %s", s)
	}
	if err := m.Snapshot(ctx, "a"); !errors.Is(err, ErrExists) {
		t.Errorf("second Snapshot: %v", err)
	}
	if err := m.Snapshot(ctx, "../x"); !errors.Is(err, ErrInvalid) {
		t.Errorf("Snapshot ../x: %v", err)
	}
	put(m, "two.")
	if err := m.Rollback(ctx, "a"); !errors.Is(err, ErrBusy) {
		t.Errorf("Rollback of a running machine: %v", err)
	}
	small := spec("small")
	small.Disk = 4 * MiB
	if _, err := m.Clone(ctx, "a", small); !errors.Is(err, ErrInvalid) {
		t.Errorf("Clone to a smaller disk: %v", err)
	}
	if _, err := m.Clone(ctx, "none", spec("c")); !errors.Is(err, ErrNotFound) {
		t.Errorf("Clone of no snapshot: %v", err)
	}
	for snap, want := range map[string]string{"a": "one.", "": "two."} {
		c, err := m.Clone(ctx, snap, MachineSpec{Name: "clone" + snap})
		if err == nil {
			err = c.Wait(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := get(c); got != want {
			t.Errorf("clone of %q has %q", snap, got)
		}
		cs, ms := c.Status(), m.Status()
		if cs.ID == ms.ID || cs.MAC.String() == ms.MAC.String() || cs.Address == ms.Address || cs.Spec.Disk != ms.Spec.Disk {
			t.Errorf("clone %+v of %+v", cs, ms)
		}
	}
	if err := m.Stop(ctx, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := m.Rollback(ctx, "a"); err != nil || get(m) != "one." {
		t.Errorf("Rollback: %v, %q", err, get(m))
	}
	if list, err := m.Snapshots(ctx); err != nil || len(list) != 1 || list[0].Name != "a" {
		t.Errorf("Snapshots: %v, %v", list, err)
	}
	if err := m.RemoveSnapshot(ctx, "a"); err != nil {
		t.Error(err)
	}
	if err := m.RemoveSnapshot(ctx, "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("second RemoveSnapshot: %v", err)
	}
	p.destroyAll(t, h)
}

func TestWatch(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seq := h.Watch(ctx, "ns")
	other := h.Watch(ctx, "other")
	s := spec("vm1")
	s.Namespace = "ns"
	m := create(t, h, s)
	if err := m.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	var states []string
	for e := range seq {
		switch e.Kind {
		case EventState:
			states = append(states, string(e.State))
		case EventGone:
			states = append(states, "gone")
		}
		if e.Kind == EventGone {
			break
		}
	}
	if got := strings.Join(states, " "); got != "starting running destroying gone" {
		t.Errorf("states: %s", got)
	}
	cancel()
	for e := range other {
		t.Errorf("event of another namespace: %+v", e)
	}
}

// TestStartsAtOnce: of many creates only so many are starting at a time, so that
// none runs out of its minute for the others' sake.
func TestStartsAtOnce(t *testing.T) {
	p := newPlace(t)
	var now, most atomic.Int32
	h, err := open(t.Context(), p.config(), p.parts(func(point string) {
		switch point {
		case "before wire the network":
			for n := now.Add(1); ; {
				if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
					return
				}
			}
		case "after record the run":
			now.Add(-1)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	defer p.destroyAll(t, h)
	limit := max(minStarting, runtime.NumCPU())
	var wg sync.WaitGroup
	for i := range 4 * limit {
		wg.Go(func() {
			m, err := h.Create(t.Context(), spec(fmt.Sprintf("vm%d", i)))
			if err == nil {
				err = m.Wait(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := int(most.Load()); n == 0 || n > limit {
		t.Errorf("%d started at a time, want 1 to %d", n, limit)
	}
}

func TestManyAtOnce(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	const clients, each = 4, 13
	var mu sync.Mutex
	var kept []*Machine
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				s := spec(fmt.Sprintf("vm%d", i))
				s.Namespace = fmt.Sprintf("client%d", c)
				m, err := h.Create(t.Context(), s)
				if err != nil {
					t.Error(err)
					return
				}
				if i%3 == 1 { // while it is being made
					if err := m.Destroy(t.Context()); err != nil {
						t.Error(err)
					}
					continue
				}
				mu.Lock()
				kept = append(kept, m)
				mu.Unlock()
				if i%3 == 2 {
					old, err := h.Get(s.Namespace, fmt.Sprintf("vm%d", i-2))
					if err == nil {
						err = old.Destroy(t.Context())
					}
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	for _, m := range kept {
		if err := m.Wait(t.Context()); err != nil && !errors.Is(err, errUnmade) {
			t.Error(err)
		}
	}
	addrs, taps := map[string]bool{}, map[string]bool{}
	for _, s := range h.List("") {
		if a := s.Address.String(); addrs[a] || taps[s.Tap] {
			t.Errorf("doubled: %s, %s", a, s.Tap)
		}
		addrs[s.Address.String()], taps[s.Tap] = true, true
	}
	if len(addrs) != clients*5 { // 0 to 12: 1 4 7 10 and 0 3 6 9 are gone
		t.Errorf("%d machines are left, want %d", len(addrs), clients*5)
	}
	entries, err := os.ReadDir(p.taps())
	if err != nil || len(entries) != len(taps) {
		t.Errorf("%d taps for %d machines, %v", len(entries), len(taps), err)
	}
	p.destroyAll(t, h)
}
