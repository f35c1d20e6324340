// SPDX-License-Identifier: BSD-2-Clause

package chipset_test

import (
	"sort"
	"sync"
	"time"

	"github.com/skepvm/skep/vmm/chipset"
)

// fakeClock moves only when told to; its calls are made by who moves it.
type fakeClock struct {
	mu    sync.Mutex
	now   time.Time
	calls []*fakeTimer
}

type fakeTimer struct {
	c  *fakeClock
	at time.Time
	f  func()
}

func newClock(t time.Time) *fakeClock { return &fakeClock{now: t} }

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) AfterFunc(d time.Duration, f func()) chipset.Timer {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &fakeTimer{c, c.now.Add(d), f}
	c.calls = append(c.calls, t)
	return t
}

func (t *fakeTimer) Stop() bool {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	for i, x := range t.c.calls {
		if x == t {
			t.c.calls = append(t.c.calls[:i], t.c.calls[i+1:]...)
			return true
		}
	}
	return false
}

// pending is the number of calls that are arranged.
func (c *fakeClock) pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)
}

// advance moves the clock by d and makes the calls that fall due on the way. It
// returns how many.
func (c *fakeClock) advance(d time.Duration) (n int) {
	c.mu.Lock()
	end := c.now.Add(d)
	for {
		sort.SliceStable(c.calls, func(i, j int) bool { return c.calls[i].at.Before(c.calls[j].at) })
		if len(c.calls) == 0 || c.calls[0].at.After(end) {
			break
		}
		t := c.calls[0]
		c.calls = c.calls[1:]
		if t.at.After(c.now) {
			c.now = t.at
		}
		c.mu.Unlock()
		t.f()
		n++
		c.mu.Lock()
	}
	c.now = end
	c.mu.Unlock()
	return n
}

// jump sets the clock without calling anybody, as a step of the host's does.
func (c *fakeClock) jump(t time.Time) {
	c.mu.Lock()
	c.now = t
	c.mu.Unlock()
}
