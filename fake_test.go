// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/internal/worker"
	"github.com/skepvm/skep/internal/worker/ctl"
)

func TestMain(m *testing.M) {
	builds := map[string]worker.Build{"fake": buildFake, "probing": buildProbing}
	if len(os.Args) >= 3 && builds[os.Args[1]] != nil && os.Args[2] == worker.Arg {
		// A worker outlives who started it: a test run that is killed leaves none.
		time.AfterFunc(20*time.Minute, func() { os.Exit(4) })
		os.Exit(worker.Main(builds[os.Args[1]], slog.New(slog.NewTextHandler(os.Stderr, nil))))
	}
	MaybeWorker()
	if dir := os.Getenv("SKEP_TEST_CRASH_DIR"); dir != "" {
		os.Exit(crashChild(dir))
	}
	goleak.VerifyTestMain(m)
}

// fakeGuest obeys what is typed on its console.
type fakeGuest struct {
	env  worker.Env
	disk *os.File
	cmds chan string
	kill chan struct{}
	once sync.Once
	in   *lineWriter

	turn  sync.Mutex // of Pause and Resume, which come one after the other
	heavy atomic.Bool
}

type lineWriter struct {
	mu   sync.Mutex
	buf  []byte
	line func(string)
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf, p...)
	for {
		i := bytes.IndexByte(w.buf, '\n')
		if i < 0 {
			return len(p), nil
		}
		w.line(string(w.buf[:i]))
		w.buf = w.buf[i+1:]
	}
}

func buildFake(cfg worker.Config, env worker.Env) (worker.Guest, error) {
	disk := cfg.File(worker.FileDisk)
	if disk == nil {
		return nil, errors.New("no disk")
	}
	if strings.Contains(cfg.Cmdline, "unbuildable") {
		return nil, errors.New("the fake guest cannot be built")
	}
	if strings.Contains(cfg.Cmdline, "stalls") {
		time.Sleep(time.Minute)
	}
	if strings.Contains(cfg.Cmdline, "panics") {
		panic("the fake guest panics")
	}
	g := &fakeGuest{env: env, disk: disk, cmds: make(chan string, 16), kill: make(chan struct{})}
	g.in = &lineWriter{line: func(s string) {
		fmt.Fprintf(env.Console, "got %s\n", s)
		g.cmds <- s
	}}
	return g, nil
}

func (g *fakeGuest) Run(ctx context.Context) ctl.Exit {
	g.env.Changed(ctl.Running, 0)
	fmt.Fprintln(g.env.Console, "booted")
	resets, deaf := 0, false
	for {
		select {
		case <-g.kill:
			return ctl.Exit{Kind: ctl.Killed, Resets: resets}
		case c := <-g.cmds:
			switch c {
			case "power":
				if !deaf {
					return ctl.Exit{Kind: ctl.PowerOff, Resets: resets}
				}
			case "poweroff":
				return ctl.Exit{Kind: ctl.PowerOff, Resets: resets}
			case "triple":
				return ctl.Exit{Kind: ctl.TripleFault, Detail: "rip=0", Resets: resets}
			case "heavy":
				g.heavy.Store(true)
			case "deaf":
				deaf = true
			case "reset":
				resets++
				g.env.Changed(ctl.Running, resets)
				fmt.Fprintln(g.env.Console, "booted")
			case "pause":
				g.env.Changed(ctl.Paused, resets)
			case "resume":
				g.env.Changed(ctl.Running, resets)
			case "probe":
				probe(g.env.Console, int(g.disk.Fd()), nil)
			case "gorge":
				b := make([]byte, 256*MiB)
				for i := 0; i < len(b); i += 4096 {
					b[i] = 1
				}
				fmt.Fprintln(g.env.Console, "gorged")
			case "die":
				os.Exit(3)
			}
		}
	}
}

// Pause of a heavy guest takes a while, whoever waits for it.
func (g *fakeGuest) Pause(ctx context.Context) error {
	g.turn.Lock()
	defer g.turn.Unlock()
	if g.heavy.Load() {
		time.Sleep(300 * time.Millisecond)
	}
	return g.send("pause")
}

func (g *fakeGuest) Resume(ctx context.Context) error {
	g.turn.Lock()
	defer g.turn.Unlock()
	return g.send("resume")
}

func (g *fakeGuest) send(s string) error                   { g.cmds <- s; return nil }
func (g *fakeGuest) Confine() error                        { return nil }
func (g *fakeGuest) Reset(ctx context.Context) error       { return g.send("reset") }
func (g *fakeGuest) PowerButton(ctx context.Context) error { return g.send("power") }
func (g *fakeGuest) Kill()                                 { g.once.Do(func() { close(g.kill) }) }
func (g *fakeGuest) Input() io.Writer                      { return g.in }
func (g *fakeGuest) Counters() map[string]uint64           { return map[string]uint64{"fake": 1} }
func (g *fakeGuest) Close() error                          { return nil }

// fakeNet keeps a tap as a file, which says whose it is. As FreeBSD's it does not go
// while anybody has it open.
type fakeNet struct{ dir string }

func (n fakeNet) path(r *record) string       { return filepath.Join(n.dir, r.Tap) }
func (n fakeNet) setup(context.Context) error { return os.MkdirAll(n.dir, 0o700) }
func (n fakeNet) openTap(ctx context.Context, r *record) (*os.File, error) {
	if err := n.removeTap(ctx, r); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(n.path(r), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, err
	}
	_, err = f.WriteString(r.ID)
	return f, err
}
func (n fakeNet) removeTap(ctx context.Context, r *record) error {
	f, err := os.Open(n.path(r))
	if err != nil {
		return ignoreNotExist(err)
	}
	defer f.Close()
	for range 500 {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			return os.Remove(n.path(r))
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("tap %s is open: %w", r.Tap, err)
}
func (n fakeNet) sweep(ctx context.Context, known func(string) bool) error { return nil }
func (n fakeNet) close() error                                             { return nil }

// fakeImages makes images of nothing.
type fakeImages struct {
	dir   string
	block chan struct{} // if not nil, warm waits for it
	once  sync.Once
}

const fakeImageSize = 3 * MiB

func (f *fakeImages) list(context.Context) ([]Image, error) {
	i, err := f.find("debian12")
	return []Image{i}, err
}

func (f *fakeImages) find(name string) (Image, error) {
	switch name {
	case "debian12", "broken", "unbuildable", "panics", "stalls":
		return Image{Name: name, OS: "linux", Profile: name, User: "debian", MinDisk: fakeImageSize, MinMemory: 64 * MiB}, nil
	}
	return Image{}, fmt.Errorf("image %q: %w", name, ErrNotFound)
}

func (f *fakeImages) warm(ctx context.Context, name string, progress func(done, total int64)) (warmImage, error) {
	progress(1, 2)
	if f.block != nil {
		select {
		case <-f.block:
		case <-ctx.Done():
			return warmImage{}, context.Cause(ctx)
		}
	}
	if name == "broken" {
		return warmImage{}, errors.New("the fake image is broken")
	}
	w := warmImage{
		ref: imageRef{Name: name, Cmdline: name}, size: fakeImageSize,
		disk: filepath.Join(f.dir, "disk"), kernel: filepath.Join(f.dir, "kernel"), initrd: filepath.Join(f.dir, "initrd"),
	}
	var err error
	f.once.Do(func() { err = f.write(w) })
	if err != nil {
		return w, err
	}
	progress(2, 2)
	return w, nil
}

func (f *fakeImages) write(w warmImage) error {
	for _, p := range []string{w.disk, w.kernel, w.initrd} {
		b := []byte(filepath.Base(p))
		if p == w.disk {
			b = make([]byte, fakeImageSize)
			copy(b[2*MiB:], "image")
		}
		if err := os.WriteFile(p, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeImages) remove(context.Context, string) error { return nil }

// place is a directory in which hosts live one after the other.
type place struct{ dir string }

func newPlace(t testing.TB) place {
	// Unix sockets want short paths.
	dir, err := os.MkdirTemp("/var/tmp", "skep-host")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return place{dir}
}

func (p place) store() string { return filepath.Join(p.dir, "store") }
func (p place) run() string   { return filepath.Join(p.dir, "run") }
func (p place) taps() string  { return filepath.Join(p.dir, "taps") }

func (p place) config() Config {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Config{
		Store: "dir:" + p.store(), RunDir: p.run(), Worker: []string{exe, "fake"},
		Limits: Limits{Memory: 64 * GiB, DiskOvercommit: 1000},
		Logger: slog.New(slog.DiscardHandler),
	}
}

func (p place) parts(fault func(string)) parts {
	return parts{
		network: func(*resolved) (network, error) { return fakeNet{p.taps()}, nil },
		images: func(cfg *resolved, s store) (imageSource, error) {
			dir := filepath.Join(s.images(), "fake")
			return &fakeImages{dir: dir}, os.MkdirAll(dir, 0o700)
		},
		fault: fault,
	}
}

func (p place) open(t testing.TB, change ...func(*Config)) *Host {
	t.Helper()
	cfg := p.config()
	for _, c := range change {
		c(&cfg)
	}
	h, err := open(t.Context(), cfg, p.parts(func(string) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func spec(name string) MachineSpec {
	return MachineSpec{Name: name, Image: "debian12", Memory: 64 * MiB, Disk: 8 * MiB}
}

func create(t testing.TB, h *Host, s MachineSpec) *Machine {
	t.Helper()
	m, err := h.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// eventually waits for what other goroutines bring about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not come about that %s", what)
		}
	}
}

// destroyAll destroys every machine and then looks whether anything is left.
func (p place) destroyAll(t testing.TB, h *Host) {
	t.Helper()
	for _, s := range h.List("") {
		m, err := h.Get(s.Spec.Namespace, s.Spec.Name)
		if err == nil {
			err = m.Destroy(context.Background())
		}
		if err != nil {
			t.Error(err)
		}
	}
	p.empty(t, h)
}

// empty finds what no machine should have left.
func (p place) empty(t testing.TB, h *Host) {
	t.Helper()
	for _, dir := range []string{filepath.Join(p.store(), "machines"), p.run(), p.taps()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			t.Errorf("left in %s: %s", dir, e.Name())
		}
	}
	if c := h.pool.Claims(); len(c) != 0 {
		t.Errorf("addresses left: %v", c)
	}
	h.mu.Lock()
	if h.committed != 0 || len(h.machines) != 0 {
		t.Errorf("left in memory: %d bytes committed, %d machines", h.committed, len(h.machines))
	}
	h.mu.Unlock()
	for _, pid := range workersUnder(p.dir) {
		t.Errorf("worker left: process %d", pid)
	}
	noGroups(t, h)
}

// noGroups finds control groups of machines whose workers are gone.
func noGroups(t testing.TB, h *Host) {
	t.Helper()
	pattern := h.limits.Place("*")
	if pattern == "" {
		return
	}
	groups, err := filepath.Glob(pattern)
	if err != nil {
		t.Error(err)
	}
	for _, g := range groups {
		if !idRule.MatchString(filepath.Base(g)) {
			continue
		}
		procs, err := os.ReadFile(filepath.Join(g, "cgroup.procs"))
		if err == nil && len(procs) == 0 {
			t.Errorf("control group left: %s", g)
		}
	}
}
