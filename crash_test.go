// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

type crashPhase struct {
	name string
	do   func(ctx context.Context, h *Host) error
}

// crashPhases are what a machine goes through in the child that is killed. Each
// begins where the one before ended.
var crashPhases = []crashPhase{
	{"create", func(ctx context.Context, h *Host) error {
		m, err := h.Create(ctx, spec("vm1"))
		if err == nil {
			err = m.Wait(ctx)
		}
		return err
	}},
	{"pause", func(ctx context.Context, h *Host) error {
		return with(h, "vm1", func(m *Machine) error { return errors.Join(m.Pause(ctx), m.Resume(ctx)) })
	}},
	{"snapshot", func(ctx context.Context, h *Host) error {
		return with(h, "vm1", func(m *Machine) error { return m.Snapshot(ctx, "s") })
	}},
	{"clone", func(ctx context.Context, h *Host) error {
		return with(h, "vm1", func(m *Machine) error {
			c, err := m.Clone(ctx, "s", MachineSpec{Name: "vm2"})
			if err == nil {
				err = c.Wait(ctx)
			}
			return err
		})
	}},
	{"stop", func(ctx context.Context, h *Host) error {
		return with(h, "vm1", func(m *Machine) error { return m.Stop(ctx, StopOptions{}) })
	}},
	{"rollback", func(ctx context.Context, h *Host) error {
		return with(h, "vm1", func(m *Machine) error { return m.Rollback(ctx, "s") })
	}},
	{"start", func(ctx context.Context, h *Host) error {
		return with(h, "vm1", func(m *Machine) error { return m.Start(ctx) })
	}},
	{"destroy", func(ctx context.Context, h *Host) error {
		return with(h, "vm1", func(m *Machine) error { return m.Destroy(ctx) })
	}},
}

// realCrashPhases are the same for a real guest, which need not have booted.
var realCrashPhases = []crashPhase{
	{"create", func(ctx context.Context, h *Host) error {
		m, err := h.Create(ctx, MachineSpec{Name: "vm1", Image: "tiny", Memory: 96 * MiB, Disk: 16 * MiB})
		if err == nil {
			err = m.Wait(ctx)
		}
		return err
	}},
	{"stop", func(ctx context.Context, h *Host) error {
		return with(h, "vm1", func(m *Machine) error { return m.Stop(ctx, StopOptions{Force: true}) })
	}},
	{"start", func(ctx context.Context, h *Host) error {
		return with(h, "vm1", func(m *Machine) error { return m.Start(ctx) })
	}},
	{"destroy", func(ctx context.Context, h *Host) error {
		return with(h, "vm1", func(m *Machine) error { return m.Destroy(ctx) })
	}},
}

func with(h *Host, name string, do func(m *Machine) error) error {
	m, err := h.Get("", name)
	if err != nil {
		return err
	}
	return do(m)
}

// crashChild lives through the phases and kills itself at the crash point of
// the number given, or counts the points of each.
func crashChild(dir string) int {
	at, _ := strconv.ParseInt(os.Getenv("SKEP_TEST_CRASH_AT"), 10, 64)
	var n atomic.Int64
	var point atomic.Value
	p := place{dir}
	phases := crashPhases
	cfg, parts := p.config(), p.parts(nil)
	if os.Getenv("SKEP_TEST_CRASH_KIND") == "real" {
		cfg = Config{
			Store: cfg.Store, RunDir: cfg.RunDir, Logger: cfg.Logger, Limits: cfg.Limits,
			Catalogue: filepath.Join(dir, "images.yaml"),
		}
		parts.network, parts.images = openNetwork, openImages
		phases = realCrashPhases
	}
	parts.fault = func(name string) {
		if n.Add(1) == at {
			point.Store(name)
			os.WriteFile(filepath.Join(dir, "point"), []byte(name), 0o600)
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	h, err := open(context.Background(), cfg, parts)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, ph := range phases {
		os.WriteFile(filepath.Join(dir, "phase"), []byte(ph.name), 0o600)
		if err := ph.do(context.Background(), h); err != nil {
			fmt.Println(ph.name, err)
			return 1
		}
	}
	fmt.Println("points", n.Load())
	return 0
}

func runCrashChild(t *testing.T, dir string, at int, kind string) (points int, crashed bool) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "SKEP_TEST_CRASH_DIR="+dir, "SKEP_TEST_CRASH_AT="+strconv.Itoa(at), "SKEP_TEST_CRASH_KIND="+kind)
	out, err := cmd.CombinedOutput()
	var ee *exec.ExitError
	if errors.As(err, &ee) && ee.Sys().(syscall.WaitStatus).Signaled() {
		return 0, true
	}
	if err != nil {
		t.Fatalf("child: %v\n%s", err, out)
	}
	s, ok := strings.CutPrefix(strings.TrimSpace(string(out)), "points ")
	points, perr := strconv.Atoi(s)
	if !ok || perr != nil {
		t.Fatalf("child said %q", out)
	}
	return points, false
}

// TestCrashAnywhere kills the daemon at each step of a machine's life, at every
// point that it finds by itself, and opens the host again: every machine is
// whole or gone, and nothing is left of what is gone.
func TestCrashAnywhere(t *testing.T) {
	first := newPlace(t)
	points, _ := runCrashChild(t, first.dir, 0, "fake")
	first.destroyAll(t, first.open(t))
	if points < 50 {
		t.Fatalf("only %d crash points", points)
	}
	t.Logf("%d crash points", points)
	every := 1
	if raceEnabled { // where each child takes seconds
		every = 9
	}
	for at := 1; at <= points; at += every {
		t.Run(strconv.Itoa(at), func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			_, crashed := runCrashChild(t, p.dir, at, "fake")
			phase, _ := os.ReadFile(filepath.Join(p.dir, "phase"))
			point, _ := os.ReadFile(filepath.Join(p.dir, "point"))
			defer func() {
				if t.Failed() {
					t.Logf("crashed in %s, at %q", phase, point)
				}
			}()
			if !crashed {
				// How often workers are asked depends on time: near the end there
				// may be a point fewer.
				t.Logf("no crash: %d points", at)
			}
			h := p.open(t)
			p.checkWhole(t, h, string(phase))
			p.destroyAll(t, h)
		})
	}
}

// checkWhole looks at each machine and for anything that is no machine's.
func (p place) checkWhole(t *testing.T, h *Host, phase string) {
	t.Helper()
	settled(t, h)
	runs := map[string]bool{}
	taps, dirs, socks := map[string]bool{}, map[string]bool{}, map[string]bool{}
	var names []string
	for _, m := range h.all() {
		s := m.Status()
		names = append(names, s.Spec.Name)
		dirs[s.ID] = true
		switch s.State {
		case StateRunning, StatePaused:
			if s.State == StatePaused && phase != "pause" {
				t.Errorf("%s is paused", s.Spec.Name)
			}
			runs[s.ID], taps[s.Tap], socks[s.ID+".sock"] = true, true, true
			if s.WorkerPID == 0 || syscall.Kill(s.WorkerPID, 0) != nil {
				t.Errorf("%s runs without a worker (%d)", s.Spec.Name, s.WorkerPID)
			}
			if st, err := m.Stats(context.Background()); err != nil || st.Counters["fake"] != 1 {
				t.Errorf("%s does not answer: %v", s.Spec.Name, err)
			}
		case StateStopped:
			if held, err := lockHeld(m.file(fileLock)); held || err != nil {
				t.Errorf("%s is stopped and its lock is held: %v", s.Spec.Name, err)
			}
		default:
			t.Errorf("%s is %s", s.Spec.Name, s.State)
		}
		if fi, err := os.Stat(m.file(fileDisk)); err != nil || fi.Size() != s.Spec.Disk {
			t.Errorf("%s: disk %v, %v", s.Spec.Name, fi, err)
		}
		if fi, err := os.Stat(m.file(fileSeed)); err != nil || fi.Size() == 0 {
			t.Errorf("%s: seed %v, %v", s.Spec.Name, fi, err)
		}
	}
	if phase != "create" && phase != "destroy" && !strings.Contains(strings.Join(names, " "), "vm1") {
		t.Errorf("vm1 is lost; there are %v", names)
	}
	same(t, "machine directories", filepath.Join(p.store(), "machines"), dirs)
	same(t, "sockets", p.run(), socks)
	same(t, "taps", p.taps(), taps)
	if n := len(h.pool.Claims()); n != len(dirs) {
		t.Errorf("%d addresses claimed for %d machines", n, len(dirs))
	}
	filepath.WalkDir(p.store(), func(path string, d os.DirEntry, err error) error {
		if strings.HasPrefix(d.Name(), prefixNew) || strings.HasPrefix(d.Name(), prefixTrash) {
			t.Errorf("left: %s", path)
		}
		return err
	})
	if n := len(workersIn(p.dir)); n != len(runs) {
		t.Errorf("%d workers for %d running machines", n, len(runs))
	}
}

// settled waits: what was being started is started again, in the background.
func settled(t *testing.T, h *Host) {
	t.Helper()
	eventually(t, "nothing is starting", func() bool {
		for _, m := range h.all() {
			if s := m.Status(); s.State == StateStarting || s.State == StateStopped && strings.Contains(s.Reason, "while it was being started") {
				return false
			}
		}
		return true
	})
}

func same(t *testing.T, what, dir string, want map[string]bool) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		if !want[e.Name()] {
			t.Errorf("%s: %s is nobody's", what, e.Name())
		}
	}
	if len(entries) != len(want) {
		t.Errorf("%s: there are %d, want %d", what, len(entries), len(want))
	}
}
