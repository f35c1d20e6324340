// SPDX-License-Identifier: BSD-2-Clause

package blk_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skepvm/skep/vmm/block"
	"github.com/skepvm/skep/vmm/virtio/blk"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

// slow is a disk of 1 TiB that takes its time for each byte.
type slow struct {
	perMiB atomic.Int64 // ns
	done   atomic.Int64 // bytes
	calls  atomic.Int32 // in progress
}

func (s *slow) work(n int64) error {
	s.calls.Add(1)
	defer s.calls.Add(-1)
	time.Sleep(time.Duration(s.perMiB.Load() * n >> 20))
	s.done.Add(n)
	return nil
}

func (s *slow) vec(bufs [][]byte) error {
	n := 0
	for _, p := range bufs {
		n += len(p)
	}
	return s.work(int64(n))
}

func (s *slow) Geometry() block.Geometry {
	return block.Geometry{Size: 1 << 40, Logical: 512, Physical: 4096, Discard: true, Zero: true}
}
func (s *slow) ReadV(bufs [][]byte, _ int64) error   { return s.vec(bufs) }
func (s *slow) TryReadV([][]byte, int64) error       { return block.ErrWouldBlock }
func (s *slow) WriteV(bufs [][]byte, _ int64) error  { return s.vec(bufs) }
func (s *slow) Flush() error                         { return nil }
func (s *slow) Discard(_, n int64) error             { return s.work(n) }
func (s *slow) WriteZeroes(_, n int64, _ bool) error { return s.work(n) }
func (s *slow) Close() error                         { return nil }

func slowDisk(t *testing.T) (*slow, *vt.Driver) {
	t.Helper()
	s := &slow{}
	s.perMiB.Store(int64(2 * time.Millisecond)) // 500 MB/s
	dev, err := blk.New(blk.Config{Backend: s})
	if err != nil {
		t.Fatal(err)
	}
	return s, vt.Attach(vt.NewMachine(t, 64<<20, false), dev)
}

// soon fails the test if f takes longer than the pieces in flight may.
func soon(t *testing.T, what string, f func()) {
	t.Helper()
	begin := time.Now()
	f()
	if d := time.Since(begin); d > time.Second {
		t.Errorf("%s took %v", what, d)
	}
}

// The largest request of each kind, several in flight, do not hold up a pause, a
// reset or the end; after a pause they are carried out in full.
func TestLongRequestsStop(t *testing.T) {
	const gib = 1 << 30
	most := func(n int) []byte { // n ranges of 2 GiB
		var all []uint64
		for i := range n {
			all = append(all, uint64(i)<<22, 1<<22, 0)
		}
		return ranges(all...)
	}
	buffers := func(q *vt.VirtQueue, flags uint16) (descs []vt.VirtqDesc) {
		at := q.D.M.Alloc(16<<20, 4096)
		for range 64 { // of the same memory
			descs = append(descs, vt.VirtqDesc{Addr: at, Len: 16 << 20, Flags: flags})
		}
		return descs
	}
	for name, c := range map[string]struct {
		kind uint32
		size int64
		data func(q *vt.VirtQueue) []vt.VirtqDesc
	}{
		"zeroes":  {tZeroes, 128 * gib, func(q *vt.VirtQueue) []vt.VirtqDesc { return []vt.VirtqDesc{q.Out(most(64))} }},
		"discard": {tDiscard, 128 * gib, func(q *vt.VirtQueue) []vt.VirtqDesc { return []vt.VirtqDesc{q.Out(most(64))} }},
		"write":   {tOut, gib, func(q *vt.VirtQueue) []vt.VirtqDesc { return buffers(q, 0) }},
		"read":    {tIn, gib, func(q *vt.VirtQueue) []vt.VirtqDesc { return buffers(q, vt.Write) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := slowDisk(t)
				q := d.Start(^uint64(0), 256)[0]
				st := q.In(1)
				d.M.Write(st.Addr, []byte{0xaa})
				const times = 20 // more than there are helpers
				head := q.Chain(append(append([]vt.VirtqDesc{q.Out(header(c.kind, 0))}, c.data(q)...), st)...)
				for range times {
					q.Publish(head)
				}
				q.Kick()
				for range 3 {
					time.Sleep(10 * time.Millisecond)
					soon(t, "pause", func() { d.Dev.Pause() })
					if n := s.calls.Load(); n != 0 {
						t.Fatalf("%d calls of the disk while paused", n)
					}
					if q.UsedIdx() != 0 || d.M.Read(st.Addr, 1)[0] != 0xaa {
						t.Fatal("a request that is not done was answered")
					}
					d.Dev.Resume()
				}
				time.Sleep(10 * time.Millisecond)
				d.Dev.Pause()
				s.perMiB.Store(0)
				s.done.Store(0)
				d.Dev.Resume()
				for range times {
					if h, _ := q.Wait(); h != uint32(head) {
						t.Fatalf("chain %d came back, not %d", h, head)
					}
				}
				if got := s.done.Load(); got != times*c.size || d.M.Read(st.Addr, 1)[0] != ok {
					t.Errorf("after it all the disk did %d bytes, want %d; status %d", got, times*c.size, d.M.Read(st.Addr, 1)[0])
				}
				if n := q.UsedIdx(); n != times {
					t.Errorf("%d chains came back of %d", n, times)
				}

				s.perMiB.Store(int64(2 * time.Millisecond))
				q.Send(head)
				time.Sleep(10 * time.Millisecond)
				soon(t, "machine reset", func() { d.Dev.Pause(); d.Dev.Reset(); d.Dev.Resume() })
				s.done.Store(0)
				d.Discover()
				probeStatus(d, d.Start(^uint64(0), 256)[0])
				if n := s.done.Load(); n != 512 {
					t.Errorf("the disk did %d bytes after a reset, want one sector", n)
				}

				q = d.Start(^uint64(0), 256)[0]
				q.Send(q.Chain(append(append([]vt.VirtqDesc{q.Out(header(c.kind, 0))}, c.data(q)...), st)...))
				time.Sleep(10 * time.Millisecond)
				soon(t, "the end", d.Dev.Halt)
			})
		})
	}
}

func probeStatus(d *vt.Driver, q *vt.VirtQueue) {
	if st := do(q, tIn, 0, q.In(512)); st != ok {
		d.M.TB.Errorf("read: status %d", st)
	}
}

// The ranges of one request are together at most the disk.
func TestRangesBound(t *testing.T) {
	s, d := slowDisk(t)
	s.perMiB.Store(0)
	q := d.Start(^uint64(0), 0)[0]
	small := vt.Attach(d.M, open(t, image(t, 1<<20), false, blk.Config{})).Start(^uint64(0), 0)[0]
	same := func(n int, sectors uint64) []byte {
		var all []uint64
		for range n {
			all = append(all, 0, sectors, 0)
		}
		return ranges(all...)
	}
	for _, kind := range []uint32{tZeroes, tDiscard} {
		if st := do(small, kind, 0, small.Out(same(64, 2048))); st != ioErr {
			t.Errorf("kind %d: the disk 64 times: status %d", kind, st)
		}
		if st := do(small, kind, 0, small.Out(same(2, 1024))); st != ok {
			t.Errorf("kind %d: half of the disk twice: status %d", kind, st)
		}
		s.done.Store(0)
		if st := do(q, kind, 0, q.Out(same(1, 1<<22+1))); st != ioErr || s.done.Load() != 0 {
			t.Errorf("kind %d: more than a range may be: status %d, %d bytes done", kind, st, s.done.Load())
		}
		// Nothing of a request with a bad range is done.
		if st := do(q, kind, 0, q.Out(ranges(0, 8, 0, 1<<40, 8, 0))); st != ioErr || s.done.Load() != 0 {
			t.Errorf("kind %d: a bad range behind a good one: status %d, %d bytes done", kind, st, s.done.Load())
		}
	}
}
