// SPDX-License-Identifier: BSD-2-Clause

package testguest

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// counted is a disk that notes what is asked of it.
type counted struct {
	mu            sync.Mutex
	reads, writes int
	places        map[int64]bool
}

func (c *counted) Buffer(n int) ([]byte, error) { return make([]byte, n), nil }

func (c *counted) note(n *int, off int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
	c.places[off] = true
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	c.note(&c.reads, off)
	return len(p), nil
}

func (c *counted) WriteAt(p []byte, off int64) (int, error) {
	c.note(&c.writes, off)
	return len(p), nil
}

func TestBenchDisk(t *testing.T) {
	const block, size = 4096, 10*4096 + 17
	for _, mode := range []string{"read", "write", "randread", "randwrite"} {
		d := &counted{places: map[int64]bool{}}
		load, err := ParseDiskLoad(size, mode, block, 3)
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		text, err := BenchDisk(d, load, 20*time.Millisecond)
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		var ops, ns int
		if _, err := fmt.Sscan(text, &ops, &ns); err != nil || ops != d.reads+d.writes || ns < int(20*time.Millisecond) {
			t.Errorf("%s: %q after %d reads and %d writes: %v", mode, text, d.reads, d.writes, err)
		}
		if read := mode == "read" || mode == "randread"; read != (d.reads > 0) || read == (d.writes > 0) {
			t.Errorf("%s: %d reads, %d writes", mode, d.reads, d.writes)
		}
		for off := range d.places {
			if off%block != 0 || off+block > size {
				t.Errorf("%s: a request at %d", mode, off)
			}
		}
	}
	for _, bad := range []struct {
		size         int64
		mode         string
		block, depth uint64
	}{{size, "erase", block, 1}, {size, "randerase", block, 1}, {size, "read", 1, 1}, {size, "read", block, 0}, {size, "read", block, 1000}, {100, "read", block, 1}} {
		if load, err := ParseDiskLoad(bad.size, bad.mode, bad.block, bad.depth); err == nil {
			t.Errorf("%+v: %+v", bad, load)
		}
	}
}
