// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/skepvm/skep/internal/worker"
)

// Each worker is a user of its own, whoever else has the same base and address.
func TestHoldUID(t *testing.T) {
	const base = 0x71600000
	var held []*os.File
	for i, n := range []uint16{0xffff, 0xffff, 0, 7} {
		uid, f, err := holdUID(base, n)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, f)
		if want := []uint32{base + 0xffff, base, base + 1, base + 7}[i]; uid != want {
			t.Errorf("user %#x, want %#x", uid, want)
		}
	}
	// One that is let go can be had again.
	if err := held[1].Close(); err != nil {
		t.Fatal(err)
	}
	uid, f, err := holdUID(base, 0)
	if err != nil || uid != base {
		t.Errorf("user %#x, %v; want %#x", uid, err, base)
	}
	held[1] = f
	for _, f := range held {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Somebody who takes all the names keeps no machine from starting.
func TestHoldUIDTaken(t *testing.T) {
	const base = 0x71700000
	for n := range uint16(uidTries) {
		uid, f, err := holdUID(base, n)
		if err != nil || uid != base+uint32(n) {
			t.Fatalf("user %#x, want %#x: %v", uid, base+uint32(n), err)
		}
		defer f.Close()
	}
	if uid, f, err := holdUID(base, 0); err != nil || f != nil || uid != base {
		t.Errorf("user %#x, %v, %v; want %#x that nobody holds", uid, f, err, base)
	}
}

// Machines of two hosts that know nothing of each other have the same address.
func TestTwoHostsUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN without root: users of workers (CI is root)")
	}
	uids := map[string]int{}
	for range 2 {
		p := newPlace(t)
		h := p.open(t)
		m := create(t, h, spec("vm1"))
		uids[uidOf(t, m.Status().WorkerPID)]++
		defer p.destroyAll(t, h)
	}
	if len(uids) != 2 || uids["0"] != 0 {
		t.Errorf("users of two workers: %v", uids)
	}
}

// uidOf is the real user of a process: proc_pid_status(5).
func uidOf(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nUid:")
	if f := strings.Fields(rest); len(f) > 0 {
		return f[0]
	}
	t.Fatalf("process %d has no user", pid)
	return ""
}

// ps(1) tells a worker from other programs, though it is started as /proc/self/exe.
func TestWorkerIsNamed(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	create(t, h, spec("vm1"))
	pids := workersIn(p.dir)
	if len(pids) != 1 {
		t.Fatalf("workers %v, want one", pids)
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pids[0])); err != nil || string(b) != worker.Arg+"\n" {
		t.Errorf("the worker is called %q (%v)", b, err)
	}
	p.destroyAll(t, h)
}
