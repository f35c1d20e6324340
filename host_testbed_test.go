// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && (linux || guests)

// On FreeBSD these want a guest, which SKEP_GUEST_DIR names.

package skep

import (
	"context"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testguest"
)

// realHost is a Host on the testbed's own hypervisor and network.
func realHost(t testing.TB, p place, change ...func(*Config)) *Host {
	t.Helper()
	cfg := realConfig(t, p)
	for _, c := range change {
		c(&cfg)
	}
	h, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func realConfig(t testing.TB, p place) Config {
	t.Helper()
	guest, err := testguest.Find()
	if err != nil {
		t.Fatal(err)
	}
	tiny := filepath.Join(p.dir, "tiny.raw")
	if err := os.WriteFile(tiny, make([]byte, 8*MiB), 0o600); err != nil {
		t.Fatal(err)
	}
	catalogue := filepath.Join(p.dir, "images.yaml")
	err = os.WriteFile(catalogue, []byte("images:"+cloudImage(t)+`
  - name: tiny
    source: `+tiny+`
    format: raw
    os: linux
    kernel: {source: `+guest.Kernel+`}
    initrd: {source: `+guest.Initrd+`}
    cmdline: "`+testguest.Cmdline(testguest.Serial)+`"
  - name: broken
    source: `+tiny+`
    format: raw
    os: linux
    kernel: {source: `+tiny+`}
    cmdline: none
  - name: tiny-cloud
    source: `+tiny+`
    format: raw
    os: linux
    user: root
    kernel: {source: `+guest.Kernel+`}
    initrd: {source: `+guest.Initrd+`}
    cmdline: "`+testguest.Cmdline(testguest.Serial, testguest.CloudParam)+`"
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return Config{Store: "dir:" + p.store(), RunDir: p.run(), Catalogue: catalogue}
}

func tinySpec(name string) MachineSpec {
	return MachineSpec{Name: name, Image: "tiny", Memory: 96 * MiB, Disk: 16 * MiB}
}

// inside speaks with the test guest of a machine.
func inside(t testing.TB, m *Machine) *testguest.Client {
	t.Helper()
	c, err := m.Console(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	g := testguest.NewClient(c, c)
	if err := g.Ready(bounded(t, 3*time.Minute)); err != nil {
		t.Fatal(err)
	}
	return g
}

func bounded(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func ask(t *testing.T, g *testguest.Client, cmd ...string) string {
	t.Helper()
	s, err := g.Do(bounded(t, time.Minute), cmd...)
	if err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}
	return s
}

func state(t *testing.T, m *Machine, want State, reason string) {
	t.Helper()
	eventually(t, "it is "+string(want), func() bool { return m.Status().State == want })
	if r := m.Status().Reason; r != reason {
		t.Errorf("it is %s because %q, want %q", want, r, reason)
	}
}

// TestRealLife takes a small guest through what a machine's life can have.
func TestRealLife(t *testing.T) {
	p := newPlace(t)
	h := realHost(t, p)
	s := tinySpec("vm1")
	s.CPUs = 2
	m := create(t, h, s)
	g := inside(t, m)
	if n := ask(t, g, "cpus"); n != "2" {
		t.Errorf("the guest sees %s processors", n)
	}
	st := m.Status()
	if nets := ask(t, g, "nets"); !strings.Contains(nets, st.MAC.String()) {
		t.Errorf("the guest's interfaces are %q, and its MAC should be %s", nets, st.MAC)
	}
	if disks := ask(t, g, "disks"); !strings.Contains(disks, fmt.Sprint(16*MiB)) {
		t.Errorf("the guest's disks are %q", disks)
	}
	checkConfined(t, st.WorkerPID)
	checkOverhead(t, st.WorkerPID, s.Memory)

	// The network, between host and guest.
	ask(t, g, "net-up", "eth0", st.Address.String())
	ask(t, g, "tcp-serve", "7000")
	c, err := net.DialTimeout("tcp", net.JoinHostPort(st.Address.Addr().String(), "7000"), 20*time.Second)
	if err != nil {
		t.Errorf("the guest cannot be reached: %v", err)
	} else {
		c.Close()
	}

	// Pause: its clock stands still, and nothing else is lost.
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	state(t, m, StatePaused, "")
	quiet, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	if _, err := g.Do(quiet, "ping"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a paused guest answered: %v", err)
	}
	cancel()
	if err := m.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask(t, g, "ping")

	// The daemon goes and comes; the guest and its console stay.
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	h = realHost(t, p)
	m, err = h.Get("", "vm1")
	if err != nil {
		t.Fatal(err)
	}
	if now := m.Status(); now.State != StateRunning || now.WorkerPID != st.WorkerPID {
		t.Fatalf("after reopening: %+v", now)
	}
	g = inside(t, m) // READY is in the history
	ask(t, g, "ping")

	// It reboots in place.
	go g.Do(t.Context(), "reboot")
	eventually(t, "it has rebooted", func() bool { return m.Status().Resets == 1 })
	if err := g.Wait(bounded(t, 3*time.Minute), "READY", 2); err != nil {
		t.Fatal(err)
	}
	if pid := m.Status().WorkerPID; pid != st.WorkerPID {
		t.Error("it rebooted into another worker")
	}

	// It powers off by itself, and by the button.
	go g.Do(t.Context(), "poweroff")
	state(t, m, StateStopped, "powered off by the guest")
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	g = inside(t, m)
	pressed := make(chan error, 1)
	go func() { pressed <- m.Stop(t.Context(), StopOptions{Timeout: 15 * time.Second}) }()
	if err := g.Wait(bounded(t, 15*time.Second), "power-button", 1); err != nil {
		t.Error(err)
	}
	if err := <-pressed; err != nil {
		t.Error(err)
	}
	state(t, m, StateStopped, "powered off by the guest")

	// It crashes, and the worker says how.
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	g = inside(t, m)
	go g.Do(t.Context(), "triple-fault")
	if tripleFaultsEnd() {
		eventually(t, "it has stopped", func() bool { return m.Status().State == StateStopped })
		if r := m.Status().Reason; !strings.HasPrefix(r, "triple fault: vCPU 0 at rip 0x") || strings.Contains(r, "\n") {
			t.Errorf("after a triple fault: %s", r)
		}
		if log, err := m.ConsoleLog(t.Context()); err != nil || !strings.Contains(string(log), "rflags=") {
			t.Errorf("the registers are not in the console's log: %v", err)
		}
	} else {
		time.Sleep(5 * time.Second)
		if err := m.Stop(t.Context(), StopOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		state(t, m, StateStopped, "ended by force: by request")
	}
	if err := m.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	leftovers(t, h, p)
}

// TestRealStartFails: a worker that ends before its guest runs leaves nothing, the
// tap that it had included, and others are not kept from starting.
func TestRealStartFails(t *testing.T) {
	p := newPlace(t)
	h := realHost(t, p)
	s := tinySpec("vm1")
	s.Image = "broken"
	m, err := h.Create(t.Context(), s)
	if err == nil {
		err = m.Wait(bounded(t, 2*time.Minute))
	}
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a machine without a kernel: %v", err)
	}
	t.Log(err)
	good := create(t, h, tinySpec("vm2"))
	if err := good.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	leftovers(t, h, p)
}

// leftovers finds what no machine should have left on the host.
func leftovers(t *testing.T, h *Host, p place) {
	t.Helper()
	for _, dir := range []string{filepath.Join(p.store(), "machines"), p.run()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			t.Errorf("left in %s: %s", dir, e.Name())
		}
	}
	for _, tap := range taps(t, h) {
		t.Errorf("left: tap %s", tap)
	}
	for _, pid := range workersUnder(p.dir) {
		t.Errorf("left: worker %d", pid)
	}
	for _, name := range machinesLeft(t) {
		t.Errorf("left: machine %s in the kernel", name)
	}
	noGroups(t, h)
	if c := h.pool.Claims(); len(c) != 0 {
		t.Errorf("left: addresses %v", c)
	}
}

// taps are those of this store's machines.
func taps(t *testing.T, h *Host) (names []string) {
	t.Helper()
	n := h.net.(*bridgeNetwork)
	all, err := n.conn.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if strings.HasPrefix(i.Owner, n.owner+"/") {
			names = append(names, i.Name)
		}
	}
	return names
}

// TestRealCrash is TestCrashAnywhere with real guests, taps and a real bridge.
func TestRealCrash(t *testing.T) {
	first := newPlace(t)
	realConfig(t, first)
	points, _ := runCrashChild(t, first.dir, 0, "real")
	h := realHost(t, first)
	for _, s := range h.List("") {
		m, _ := h.Get("", s.Spec.Name)
		if err := m.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
	leftovers(t, h, first)
	h.Close()
	t.Logf("%d crash points", points)
	if points < 30 {
		t.Fatalf("only %d crash points", points)
	}
	// Every point takes seconds in emulation: all of them with SKEP_SOAK, else a
	// dozen that are spread over the whole and are others each time.
	stride := max(1, points/12)
	if soak() {
		stride = 1
	}
	for at := 1 + mrand.IntN(stride); at <= points; at += stride {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			p := newPlace(t)
			realConfig(t, p)
			_, crashed := runCrashChild(t, p.dir, at, "real")
			phase, _ := os.ReadFile(filepath.Join(p.dir, "phase"))
			point, _ := os.ReadFile(filepath.Join(p.dir, "point"))
			defer func() {
				if t.Failed() {
					t.Logf("crashed in %s, at %q", phase, point)
				}
			}()
			if !crashed {
				t.Logf("no crash: %d points", at)
			}
			h := realHost(t, p)
			settled(t, h)
			want := map[string]bool{}
			for _, s := range h.List("") {
				switch s.State {
				case StateRunning:
					want[s.Tap] = true
					m, _ := h.Get("", s.Spec.Name)
					if _, err := m.Stats(t.Context()); err != nil {
						t.Error(err)
					}
				case StateStopped:
				default:
					t.Errorf("%s is %s", s.Spec.Name, s.State)
				}
				if fi, err := os.Stat(filepath.Join(p.store(), "machines", s.ID, fileDisk)); err != nil || fi.Size() != s.Spec.Disk {
					t.Errorf("disk: %v, %v", fi, err)
				}
			}
			for _, tap := range taps(t, h) {
				if !want[tap] {
					t.Errorf("tap %s is nobody's", tap)
				}
				delete(want, tap)
			}
			if len(want) != 0 {
				t.Errorf("taps are missing: %v", want)
			}
			for _, s := range h.List("") {
				m, _ := h.Get("", s.Spec.Name)
				if err := m.Destroy(t.Context()); err != nil {
					t.Error(err)
				}
			}
			leftovers(t, h, p)
			h.Close()
		})
	}
}

// TestRealMany: 52 creates (20 without SKEP_SOAK) at once by four clients, mixed
// with destroys.
func TestRealMany(t *testing.T) {
	p := newPlace(t)
	cfg := realConfig(t, p)
	cfg.Limits.Memory = 64 * GiB // guests touch little of what they have
	h, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	const clients = 4
	each := 5
	if soak() {
		each = 13
	}
	var mu sync.Mutex
	var kept []*Machine
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				s := tinySpec(fmt.Sprintf("vm%d", i))
				s.Namespace = fmt.Sprintf("client%d", c)
				m, err := h.Create(t.Context(), s)
				if err != nil {
					t.Error(err)
					return
				}
				switch i % 3 {
				case 1: // while it is being made
					if err := m.Destroy(t.Context()); err != nil {
						t.Error(err)
					}
				case 2: // when it is made
					if err := m.Wait(t.Context()); err != nil {
						t.Error(err)
					}
					if err := m.Destroy(t.Context()); err != nil {
						t.Error(err)
					}
				default:
					mu.Lock()
					kept = append(kept, m)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	addrs, names := map[string]bool{}, map[string]bool{}
	for _, m := range kept {
		if err := m.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		s := m.Status()
		if s.State != StateRunning || addrs[s.Address.String()] || names[s.Tap] {
			t.Errorf("%s is %s, with %s and %s", m.key, s.State, s.Address, s.Tap)
		}
		addrs[s.Address.String()], names[s.Tap] = true, true
	}
	if want := clients * ((each + 2) / 3); len(h.List("")) != len(kept) || len(kept) != want {
		t.Errorf("%d machines, %d kept, want %d", len(h.List("")), len(kept), want)
	}
	for _, tap := range taps(t, h) {
		if !names[tap] {
			t.Errorf("tap %s is nobody's", tap)
		}
		delete(names, tap)
	}
	if len(names) != 0 {
		t.Errorf("taps are missing: %v", names)
	}
	for _, m := range kept {
		if err := m.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
	leftovers(t, h, p)
}

// soak says that the long tests run whole.
func soak() bool { return os.Getenv("SKEP_SOAK") != "" }
