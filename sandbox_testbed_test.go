// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && (linux || guests)

package skep

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testguest"
	"github.com/skepvm/skep/internal/testnet"
)

// TestRealSandbox tries from inside a worker what a guest might that has broken out
// of a real machine, while it is busy: the worker has its disk, its tap and the
// hypervisor's descriptors. The guest runs on.
func TestRealSandbox(t *testing.T) {
	p := newPlace(t)
	h := realHost(t, p, func(c *Config) { c.Worker = []string{p.config().Worker[0], "probing"} })
	s := tinySpec("vm1")
	s.CPUs, s.Disk = 2, 8*MiB // as the attempts on the disk have it, whose first half they leave alone
	m := create(t, h, s)
	g := inside(t, m)
	// What it would answer might be torn by what its worker says meanwhile.
	plan := testguest.Plan{Length: 4 * MiB, Writers: 2, Requests: 60, Seed: 3}
	if err := g.Send(plan.Command("vda")...); err != nil {
		t.Fatal(err)
	}
	within(t, 3*time.Minute, "it writes", func() bool { return counter(t, m, "disk0.writes") > 10 })
	probeWorker(t, m, len(attempts(&vmFiles{})))
	disk, err := os.Open(m.file(fileDisk))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	within(t, 3*time.Minute, "the disk holds what it was to write", func() bool { return plan.Check(disk) == nil })
	checkConfined(t, m.Status().WorkerPID)

	// Its disk, its network, its life.
	const seed, offset, size = 7, 4 * MiB, 4 * MiB
	want := testguest.PatternSum(seed, offset, size).String()
	if got := ask(t, g, "disk-fill", "vda", fmt.Sprint(offset), fmt.Sprint(size), fmt.Sprint(seed)); got != want {
		t.Errorf("the guest wrote %s, want %s", got, want)
	}
	if got := ask(t, g, "disk-sum", "vda", fmt.Sprint(offset), fmt.Sprint(size)); got != want {
		t.Errorf("the guest reads %s, want %s", got, want)
	}
	checkNetwork(t, m, g)
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	state(t, m, StatePaused, "")
	if err := m.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask(t, g, "ping")
	go g.Do(t.Context(), "reboot")
	if err := g.Wait(bounded(t, 3*time.Minute), "READY", 2); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(t.Context(), StopOptions{Timeout: time.Minute}); err != nil {
		t.Fatal(err)
	}
	state(t, m, StateStopped, "powered off by the guest")
	if err := m.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	leftovers(t, h, p)
}

// checkNetwork has guest and host send each other something.
func checkNetwork(t *testing.T, m *Machine, g *testguest.Client) {
	t.Helper()
	const size, seed = MiB, 5
	want := testguest.PatternSum(seed, 0, size).String()
	st := m.Status()
	ask(t, g, "net-up", "eth0", st.Address.String())
	ask(t, g, "tcp-serve", "7000")
	if got := testnet.Send(t, net.JoinHostPort(st.Address.Addr().String(), "7000"), size, seed); got != want {
		t.Errorf("the guest received what sums to %s, want %s", got, want)
	}
	peer := testnet.Serve(t, net.JoinHostPort(st.Gateway.String(), "0"))
	sums := strings.Fields(ask(t, g, "tcp-send", peer, fmt.Sprint(size), fmt.Sprint(seed)))
	if len(sums) != 3 || sums[0] != want || sums[1] != want {
		t.Errorf("the host received what sums to %q, want %s", sums, want)
	}
}

// within is eventually for what takes longer.
func within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not come about within %s that %s", d, what)
		}
	}
}

// counter is one of a machine's.
func counter(t *testing.T, m *Machine, name string) uint64 {
	t.Helper()
	st, err := m.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st.Counters[name]
}
