// SPDX-License-Identifier: BSD-2-Clause

package testguest

import (
	"sync"
	"testing"
)

// memDisk is a disk in memory; bad spoils requests of the kind that it names.
type memDisk struct {
	mu  sync.Mutex
	b   []byte
	bad string
	n   int
}

// spoil says whether this is a request that goes wrong.
func (d *memDisk) spoil(kind string) bool {
	if d.bad == kind {
		d.n++
	}
	return d.bad == kind && d.n%5 == 0
}

func (d *memDisk) Buffer(n int) ([]byte, error) { return make([]byte, n), nil }

func (d *memDisk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.spoil("short read") {
		return len(p), nil
	}
	return copy(p, d.b[off:]), nil
}

func (d *memDisk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.spoil("lost write"):
		return len(p), nil
	case d.spoil("write beside"):
		off += Sector
	case d.spoil("torn write"):
		copy(d.b[off:], p[:len(p)-8])
		return len(p), nil
	}
	return copy(d.b[off:], p), nil
}

func (d *memDisk) Flush() error { return nil }

func (d *memDisk) Discard(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bad == "wide discard" {
		off, n = off/planBlock*planBlock, planBlock
	}
	clear(d.b[off : off+n])
	return nil
}

func (d *memDisk) Zero(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bad != "lost zeroes" {
		clear(d.b[off : off+n])
	}
	return nil
}

func TestPlan(t *testing.T) {
	p := Plan{Offset: planBlock, Length: 2 * planBlock, Writers: 2, Requests: 40, Seed: 7}
	play := func(bad string) (*memDisk, PlanCounts, error) {
		d := &memDisk{b: make([]byte, p.Offset+p.Length), bad: bad}
		fill(d.b, 0xee)
		n, err := p.Run(d)
		return d, n, err
	}
	d, n, err := play("")
	if err != nil || n.Writes+n.Reads+n.Flushes+n.Discards+n.Zeroes != 80 || n.Writes == 0 || n.Reads == 0 || n.Flushes == 0 || n.Discards == 0 || n.Zeroes == 0 {
		t.Fatalf("%v, %v", n, err)
	}
	if err := p.Check(d); err != nil {
		t.Error(err)
	}
	if _, again, _ := play(""); again != n {
		t.Errorf("the same plan did %v and %v", n, again)
	}
	other := p
	if other.Seed++; other.Check(d) == nil {
		t.Error("another plan finds its data")
	}
	for _, bad := range []string{"short read", "lost write", "write beside", "torn write", "wide discard", "lost zeroes"} {
		d, _, err := play(bad)
		if err == nil {
			t.Errorf("%s: not found", bad)
		}
		if bad == "lost write" && p.Check(d) == nil {
			t.Errorf("%s: not found on the disk", bad)
		}
	}
	for _, bad := range []Plan{{}, {Offset: 1, Length: planBlock, Writers: 1, Requests: 1}, {Length: planBlock, Writers: 2, Requests: 1}} {
		if _, err := bad.Run(d); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
