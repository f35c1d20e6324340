// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package skep

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestControlGroups: a worker lives in a control group of its own, which bounds it
// and goes with it, whatever becomes of the daemon.
func TestControlGroups(t *testing.T) {
	p := newPlace(t)
	var log bytes.Buffer
	logged := func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	h := p.open(t, logged)
	s := spec("vm1")
	s.CPUs = 2
	m := create(t, h, s)
	id := m.Status().ID
	group := h.limits.Place(id)
	if group == "" {
		t.Fatalf("no place for control groups: %s", &log)
	}
	inGroup := func() {
		t.Helper()
		path := strings.TrimPrefix(group, "/sys/fs/cgroup")
		if got := read(t, fmt.Sprintf("/proc/%d/cgroup", m.Status().WorkerPID)); got != "0::"+path {
			t.Errorf("the worker's group is %q, want %q", got, path)
		}
	}
	gone := func(when string) {
		t.Helper()
		if _, err := os.Stat(group); !os.IsNotExist(err) {
			t.Errorf("the group is there %s: %v", when, err)
		}
	}
	inGroup()
	for file, want := range map[string]string{
		"memory.max": fmt.Sprint(64*MiB + MiB/4 + 512*MiB), "pids.max": "512",
		"cpu.max": "300000 100000", "cpu.weight": "200", "memory.swap.max": "max",
	} {
		got, err := os.ReadFile(filepath.Join(group, file))
		if os.IsNotExist(err) && file == "memory.swap.max" {
			continue
		}
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %q (%v), want %q", file, got, err, want)
		}
	}

	// The worker may map less than its group may have, so the limit is lowered.
	if err := os.WriteFile(filepath.Join(group, "memory.max"), []byte(fmt.Sprint(64*MiB)), 0); err != nil {
		t.Fatal(err)
	}
	c, err := m.Console(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(c, "gorge")
	state(t, m, StateStopped, fmt.Sprintf("the worker died: signal: killed: it took more memory than the %d bytes of its control group", 64*MiB))
	c.Close()
	if text, err := m.ConsoleLog(t.Context()); err != nil || strings.Contains(string(text), "gorged") {
		t.Errorf("the worker took what it wanted: %q, %v", text, err)
	}
	gone("after a worker was killed")

	// A new run has a group that knows nothing of the last.
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	inGroup()
	if got := read(t, filepath.Join(group, "memory.events")); !strings.Contains(got, "oom_kill 0") {
		t.Errorf("its counts are %q", got)
	}

	// The daemon goes and comes: the worker stays where it is. It goes, the worker
	// dies, it comes: nothing is left, and nobody else's group is touched.
	reopen := func() {
		t.Helper()
		h = p.open(t, logged)
		if m, err = h.Get("", "vm1"); err != nil {
			t.Fatal(err)
		}
	}
	h.Close()
	reopen()
	inGroup()
	typeLine(t, m, "hello")
	pid := m.Status().WorkerPID
	h.Close()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the worker is gone", func() bool { return len(workersIn(p.dir)) == 0 })
	if _, err := os.Stat(group); err != nil {
		t.Errorf("its group: %v", err)
	}
	other := filepath.Join(filepath.Dir(group), "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	defer unix.Rmdir(other)
	reopen()
	gone("after the daemon came back")
	state(t, m, StateStopped, "the worker died")

	// What an end left that was disturbed.
	h.Close()
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	reopen()
	gone("after the daemon came back once more")
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	inGroup()
	p.destroyAll(t, h)
	gone("after the machine was destroyed")
	if _, err := os.Stat(other); err != nil {
		t.Errorf("somebody else's group: %v", err)
	}

	// Without the sandbox there is no group either.
	h.Close()
	h = p.open(t, logged, func(c *Config) { c.NoSandbox = true })
	m = create(t, h, spec("vm2"))
	if got := read(t, fmt.Sprintf("/proc/%d/cgroup", m.Status().WorkerPID)); strings.Contains(got, "skep-machines") {
		t.Errorf("without a sandbox its group is %q", got)
	}
	p.destroyAll(t, h)
	if log.Len() != 0 {
		t.Errorf("the daemon logged: %s", &log)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
