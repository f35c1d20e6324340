// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && (linux || guests)

package skep

import (
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testguest"
	"github.com/skepvm/skep/internal/testseed"
)

// The disk of TestRealKill: parts that a goroutine each works on, and behind them
// one that is filled when the worker is killed.
const (
	killDisk  = 32 * MiB
	killPart  = 2 * MiB
	killParts = 3
	killTail  = 8 * MiB
)

// TestRealKill kills workers in the middle of their guest's writes, discards and
// zeroes of mixed sizes: what the guest had flushed is there when it runs again, and
// of what came after the flush each sector is as it was before or as it should be.
// SKEP_SEED repeats a sequence.
func TestRealKill(t *testing.T) {
	seed := testseed.Get(t)
	p := newPlace(t)
	h := realHost(t, p)
	s := tinySpec("vm1")
	s.Disk = killDisk
	m := create(t, h, s)
	k := &killModel{held: make([]uint64, killDisk/testguest.Sector)}
	g := inside(t, m)
	for round := range uint64(3) {
		rnd := mrand.New(mrand.NewPCG(seed, round<<8))
		k.parts = make([]killOps, killParts+1)
		var killed atomic.Bool
		var lanes sync.WaitGroup
		t.Cleanup(func() {
			killed.Store(true)
			lanes.Wait()
		})
		for part := range killParts {
			rnd := mrand.New(mrand.NewPCG(seed, round<<8+uint64(part)+1))
			lanes.Go(func() {
				var err error
				for err == nil {
					err = k.request(t, g, part, rnd)
				}
				if !killed.Load() {
					t.Errorf("part %d: %v", part, err)
				}
			})
		}
		many := 30 + rnd.IntN(30)
		within(t, 3*time.Minute, "enough is asked for", func() bool { return k.answered() >= many })
		lanes.Go(func() { // this will not come to its end
			op := killOp{first: killTail / testguest.Sector, n: (killDisk - killTail) / testguest.Sector, stamp: k.stamp()}
			_ = k.do(t, g, killParts, op)
		})
		before, much := counter(t, m, "disk0.written_bytes"), uint64(rnd.IntN(8*MiB))
		within(t, 3*time.Minute, "it writes", func() bool { return counter(t, m, "disk0.written_bytes") > before+much })
		killed.Store(true)
		if err := syscall.Kill(m.Status().WorkerPID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		state(t, m, StateStopped, "the worker died: signal: killed")
		lanes.Wait()
		sum := k.check(t, m.file(fileDisk))
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		g = inside(t, m)
		if got := ask(t, g, "disk-sum", "vda", "0", fmt.Sprint(killDisk)); got != sum {
			t.Errorf("round %d: the guest reads %s, the disk's file holds %s", round, got, sum)
		}
	}
	if err := m.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	leftovers(t, h, p)
}

// killModel knows what each sector of the disk may hold. A sector is known by its
// stamp: the seed of the pattern that it holds, 0 for zeroes.
type killModel struct {
	mu    sync.Mutex
	held  []uint64  // what each sector held when the guest began
	last  uint64    // stamp
	parts []killOps // what has been asked for since
}

// killOps are what one goroutine asked for in its part, one after the other.
type killOps struct {
	ops  []killOp
	done int // of them, answered
	safe int // of them, answered before a flush was asked for, by whomever, that was answered too
}

// killOp changes n sectors.
type killOp struct {
	first, n int
	stamp    uint64
	discard  bool // or leaves them as they are
}

func (o killOp) command() []string {
	c := []string{"disk-write", "vda", fmt.Sprint(o.first * testguest.Sector), fmt.Sprint(o.n * testguest.Sector)}
	switch {
	case o.discard:
		c[0] = "disk-discard"
	case o.stamp == 0:
		c[0] = "disk-zero"
	default:
		c = append(c, fmt.Sprint(o.stamp))
	}
	return c
}

func (k *killModel) stamp() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last++
	return k.last
}

func (k *killModel) answered() (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.parts {
		n += p.done
	}
	return n
}

// request makes one of the guest's requests in a part.
func (k *killModel) request(t *testing.T, g *testguest.Client, part int, rnd *mrand.Rand) error {
	// A sector to a mebibyte; every order of magnitude comes as often as any other.
	n := 1 + rnd.IntN(1<<rnd.IntN(12))
	op := killOp{first: part*killPart/testguest.Sector + rnd.IntN(killPart/testguest.Sector-n+1), n: n}
	switch kind := rnd.IntN(100); {
	case kind < 58:
		op.stamp = k.stamp()
	case kind < 70:
		return k.flush(t, g)
	case kind < 86:
		op.discard = true
	}
	return k.do(t, g, part, op)
}

func (k *killModel) do(t *testing.T, g *testguest.Client, part int, op killOp) error {
	k.mu.Lock()
	p := &k.parts[part]
	p.ops = append(p.ops, op)
	k.mu.Unlock()
	if _, err := g.Do(bounded(t, time.Minute), op.command()...); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	p.done++
	return nil
}

func (k *killModel) flush(t *testing.T, g *testguest.Client) error {
	k.mu.Lock()
	var done []int
	for _, p := range k.parts {
		done = append(done, p.done)
	}
	k.mu.Unlock()
	if _, err := g.Do(bounded(t, time.Minute), "disk-flush", "vda"); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.parts {
		k.parts[i].safe = max(k.parts[i].safe, done[i])
	}
	return nil
}

// may answers which stamps each sector may have, the newest last.
func (k *killModel) may() [][]uint64 {
	may := make([][]uint64, len(k.held))
	for i, s := range k.held {
		may[i] = []uint64{s}
	}
	for _, p := range k.parts {
		for i, o := range p.ops {
			for s := o.first; s < o.first+o.n; s++ {
				if i < p.safe && !o.discard {
					may[s] = may[s][:0]
				}
				may[s] = append(may[s], o.stamp)
			}
		}
	}
	return may
}

// check holds the disk's file against what it may hold, notes what it does, and
// answers its sum.
func (k *killModel) check(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var sum testguest.Sum
	var got, want [testguest.Sector]byte
	bad, open, older := 0, 0, 0
	for s, may := range k.may() {
		if _, err := io.ReadFull(f, got[:]); err != nil {
			t.Fatal(err)
		}
		sum.Add(got[:])
		at := -1
		for i := len(may) - 1; i >= 0 && at < 0; i-- {
			if clear(want[:]); may[i] != 0 {
				testguest.Pattern(want[:], may[i], uint64(s*testguest.Sector))
			}
			if got == want {
				at, k.held[s] = i, may[i]
			}
		}
		if len(may) > 1 {
			open++
		}
		switch {
		case at < 0:
			if bad++; bad <= 10 {
				t.Errorf("sector %d begins with % x, which is none of %d", s, got[:16], may)
			}
		case at < len(may)-1:
			older++
		}
	}
	if bad > 0 {
		t.Errorf("%d sectors are wrong", bad)
	}
	asked, safe := 0, 0
	for _, p := range k.parts {
		asked, safe = asked+len(p.ops), safe+p.safe
	}
	t.Logf("%d changes, %d of them flushed; %d sectors might be older, %d are", asked, safe, open, older)
	if safe == 0 {
		t.Error("nothing was flushed")
	}
	if n, err := f.Read(got[:]); !errors.Is(err, io.EOF) {
		t.Errorf("the disk goes on: %d bytes, %v", n, err)
	}
	return sum.String()
}
