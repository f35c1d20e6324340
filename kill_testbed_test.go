// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && (linux || guests)

package skep

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// TestRealKill kills workers in the middle of their guest's writes: what the
// guest had flushed is there when it runs again.
func TestRealKill(t *testing.T) {
	p := newPlace(t)
	h := realHost(t, p)
	s := tinySpec("vm1")
	s.Disk = 64 * MiB
	m := create(t, h, s)
	const block, blocks = 256 * KiB, 16
	fill := func(n, seed int) []string {
		return []string{"disk-fill", "vda", fmt.Sprint(n * block), fmt.Sprint(block), fmt.Sprint(seed)}
	}
	for round := range 3 {
		g := inside(t, m)
		var flushed [blocks]string
		for n := range flushed {
			flushed[n] = ask(t, g, fill(n, 100*round+n)...)
		}
		go g.Do(t.Context(), "disk-fill", "vda", fmt.Sprint(8*MiB), fmt.Sprint(48*MiB), "1")
		wrote := func() uint64 {
			st, err := m.Stats(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return st.Counters["disk0.written_bytes"]
		}
		before := wrote()
		eventually(t, "it writes", func() bool { return wrote() > before })
		time.Sleep(time.Duration(round) * 50 * time.Millisecond)
		if err := syscall.Kill(m.Status().WorkerPID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		state(t, m, StateStopped, "the worker died: signal: killed")
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		g = inside(t, m)
		for n, want := range flushed {
			if got := ask(t, g, "disk-sum", "vda", fmt.Sprint(n*block), fmt.Sprint(block)); got != want {
				t.Errorf("round %d: block %d holds %s after the worker was killed, %s was flushed", round, n, got, want)
			}
		}
	}
	if err := m.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	leftovers(t, h, p)
}
