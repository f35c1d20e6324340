// SPDX-License-Identifier: BSD-2-Clause

package virtiotest

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/virtio"
)

// Subject is a device under attack.
type Subject struct {
	// New makes the device. stir, if not nil, makes something arrive from
	// outside, for queues that the device looks at only then.
	New func(tb testing.TB) (dev virtio.Device, stir func())
	// Probe uses the device as a good driver would and fails the test if it does
	// not work. It gets freshly started queues.
	Probe func(d *Driver, qs []*VirtQueue)
	// Budget is how many bytes one attack may make the device allocate in all;
	// 0 means 4 MiB. Each start of the device and each entry of a ring adds a
	// little to it.
	Budget uint64
	// Work counts the bytes that the device has asked of what is behind it: disk,
	// wire, terminal. Each request counts at least one.
	Work *atomic.Uint64
	// Entry bounds the work that one entry of an available ring makes.
	Entry uint64
	// Stream: the work of a chain is its length, however long that is.
	Stream bool
	// Words are what a request may hold, 16 bytes or so each: headers, ranges, good
	// ones and bad ones. Without any they are at random.
	Words [][]byte
	// Heavy is a chain that makes about as much, nil for a queue that has none.
	Heavy func(q *VirtQueue) []VirtqDesc
}

// What a start of the device and an entry of a ring add to the budget: buffers
// of the queues' goroutines, and the driver's own.
const (
	startBudget = 128 << 10
	entryBudget = 1 << 10
)

// attack is one way to break the rules. It gets a started device's queue.
type attack struct {
	name     string
	features uint64
	// broken: the device must ask for a reset. Otherwise it may do anything but
	// hang, panic or grow.
	broken bool
	do     func(q *VirtQueue)
}

const all = ^uint64(0)

// attacks on the ring; each is played against every queue of a device.
var attacks = []attack{
	{"head beyond the table", all, true, func(q *VirtQueue) { q.Send(uint16(q.Size)) }},
	{"head 65535", all, true, func(q *VirtQueue) { q.Send(65535) }},
	{"next beyond the table", all, true, func(q *VirtQueue) {
		q.raw(0, VirtqDesc{q.D.M.Alloc(64, 8), 64, Next, uint16(q.Size)})
		q.Send(0)
	}},
	{"loop of one", all, true, func(q *VirtQueue) {
		q.raw(0, VirtqDesc{q.D.M.Alloc(64, 8), 64, Next, 0})
		q.Send(0)
	}},
	{"loop of two, writable", all, true, func(q *VirtQueue) {
		q.raw(0, VirtqDesc{q.D.M.Alloc(64, 8), 64, Next | Write, 1})
		q.raw(1, VirtqDesc{q.D.M.Alloc(64, 8), 64, Next | Write, 0})
		q.Send(0)
	}},
	{"loop of empty buffers", all, true, func(q *VirtQueue) {
		q.raw(0, VirtqDesc{0x1000, 0, Next, 0})
		q.Send(0)
	}},
	{"buffer in the hole", all, true, one(0xc0000000, 512, 0)},
	{"buffer that is written in the hole", all, true, one(0xc0000000, 512, Write)},
	{"buffer across the end of memory", all, true, one(High+1<<20-8, 16, Write)},
	{"buffer that wraps", all, true, one(^uint64(0)-7, 16, Write)},
	{"buffer at the last byte of all", all, true, one(^uint64(0), 1, 0)},
	{"buffer in ROM", all, true, one(High+1<<30, 64, Write)},
	{"4 GiB", all, true, one(0x1000, 0xffffffff, Write)},
	{"4 GiB to read", all, true, one(0x1000, 0xffffffff, 0)},
	{"readable behind writable", all, true, func(q *VirtQueue) {
		q.raw(0, VirtqDesc{q.D.M.Alloc(64, 8), 64, Next | Write, 1})
		q.raw(1, VirtqDesc{q.D.M.Alloc(64, 8), 64, 0, 0})
		q.Send(0)
	}},
	{"a descriptor more than a chain may have", all, true, func(q *VirtQueue) {
		n := q.segments() // and the indirect one
		at := q.D.M.Alloc(16*uint64(n), 16)
		for i := range n {
			q.SetDesc(at, i, VirtqDesc{0x1000, 1, Next | Write, uint16(i + 1)})
		}
		q.SetDesc(at, n-1, VirtqDesc{0x1000, 1, Write, 0})
		q.raw(0, VirtqDesc{at, uint32(16 * n), Indirect, 0})
		q.Send(0)
	}},
	{"available index ahead of the ring", all, true, func(q *VirtQueue) { q.SetAvail(uint16(q.Size) + 1); q.Kick() }},
	{"available index behind", all, true, func(q *VirtQueue) { q.SetAvail(65535); q.Kick() }},
	{"indirect without the feature", 0, true, func(q *VirtQueue) {
		q.Send(q.IndirectChain(q.Out(make([]byte, 16)), q.In(16)))
	}},
	{"indirect table of 0 bytes", all, true, one(0x1000, 0, Indirect)},
	{"indirect table of 17 bytes", all, true, one(0x1000, 17, Indirect)},
	{"indirect table in the hole", all, true, one(0xd0000000, 32, Indirect)},
	{"indirect table that wraps", all, true, one(^uint64(0)-15, 32, Indirect)},
	{"indirect and next", all, true, func(q *VirtQueue) {
		q.raw(0, VirtqDesc{q.table(VirtqDesc{0x1000, 8, 0, 0}), 16, Indirect | Next, 1})
		q.raw(1, VirtqDesc{0x1000, 8, 0, 0})
		q.Send(0)
	}},
	{"indirect in indirect", all, true, func(q *VirtQueue) {
		in := q.table(VirtqDesc{0x1000, 8, 0, 0})
		q.raw(0, VirtqDesc{q.table(VirtqDesc{in, 16, Indirect, 0}), 16, Indirect, 0})
		q.Send(0)
	}},
	{"indirect table that holds itself", all, true, func(q *VirtQueue) {
		at := q.D.M.Alloc(16, 16)
		q.SetDesc(at, 0, VirtqDesc{at, 16, Indirect, 0})
		q.raw(0, VirtqDesc{at, 16, Indirect, 0})
		q.Send(0)
	}},
	{"loop in an indirect table", all, true, func(q *VirtQueue) {
		q.raw(0, VirtqDesc{q.table(VirtqDesc{0x1000, 8, Next, 0}), 16, Indirect, 0})
		q.Send(0)
	}},
	{"next beyond the indirect table", all, true, func(q *VirtQueue) {
		q.raw(0, VirtqDesc{q.table(VirtqDesc{0x1000, 8, Next, 1}), 16, Indirect, 0})
		q.Send(0)
	}},
	{"indirect table of 4 GiB with a loop", all, true, func(q *VirtQueue) {
		q.raw(0, VirtqDesc{q.table(VirtqDesc{0x1000, 0, Next, 0}), 0xfffffff0, Indirect, 0})
		q.Send(0)
	}},
	{"indirect chain without end", all, true, func(q *VirtQueue) {
		const n = 5000
		at := q.D.M.Alloc(16*n, 16)
		for i := range n {
			q.SetDesc(at, i, VirtqDesc{0x1000, 1, Next | Write, uint16(i + 1)})
		}
		q.raw(0, VirtqDesc{at, 16 * n, Indirect, 0})
		q.Send(0)
	}},
	{"misaligned indirect table", all, false, func(q *VirtQueue) {
		at := q.D.M.Alloc(64, 16) + 3
		q.D.M.Write(at, make([]byte, 16))
		q.raw(0, VirtqDesc{at, 16, Indirect, 0})
		q.Send(0)
	}},
	{"all of memory, over and over", all, false, func(q *VirtQueue) {
		for i := range q.Size - 1 {
			q.raw(i, VirtqDesc{0, 1 << 20, Next, uint16(i + 1)})
		}
		q.raw(q.Size-1, VirtqDesc{0x1000, 1, Write, 0})
		q.Send(0)
	}},
	{"all of memory, to be written", all, false, func(q *VirtQueue) {
		// Not the rings themselves: what the device writes there is this attack's
		// own loss and may look like another one.
		at := q.D.M.Alloc(1<<18, 16)
		q.raw(0, VirtqDesc{q.D.M.Alloc(16, 16), 16, Next, 1})
		for i := 1; i < q.Size; i++ {
			q.raw(i, VirtqDesc{at, 1 << 18, Write | Next, uint16(i + 1)})
		}
		q.raw(q.Size-1, VirtqDesc{at, 1 << 18, Write, 0})
		q.Send(0)
	}},
	{"many empty buffers", all, false, func(q *VirtQueue) {
		for i := range q.Size {
			q.raw(i, VirtqDesc{uint64(i), 0, uint16(i%2) * Write, 0})
			q.Publish(uint16(i))
		}
		q.Kick()
	}},
	{"one byte for all", all, false, func(q *VirtQueue) {
		q.raw(0, VirtqDesc{0x1000, 1, Write, 0})
		for range q.Size {
			q.Publish(0)
		}
		q.Kick()
	}},
	{"kicks for nothing", all, false, func(q *VirtQueue) {
		for range 1000 {
			q.Kick()
		}
	}},
	{"unknown descriptor flags", all, false, func(q *VirtQueue) {
		q.raw(0, VirtqDesc{0x1000, 16, 0xfff8, 0})
		q.Send(0)
	}},
}

// rings that a driver must not give. Each is enabled and must be refused.
var badRings = []struct {
	name              string
	size              int
	desc, avail, used uint64
}{
	{"size 0", 0, 0x1000, 0x2000, 0x3000},
	{"size 3", 3, 0x1000, 0x2000, 0x3000},
	{"size 32768", 32768, 0x1000, 0x2000, 0x3000},
	{"size 65535", 65535, 0x1000, 0x2000, 0x3000},
	{"misaligned table", 16, 0x1008, 0x2000, 0x3000},
	{"misaligned available ring", 16, 0x1000, 0x2001, 0x3000},
	{"misaligned used ring", 16, 0x1000, 0x2000, 0x3002},
	{"table in the hole", 16, 0xc0000000, 0x2000, 0x3000},
	{"available ring in ROM", 16, 0x1000, High + 1<<30, 0x3000},
	{"used ring in ROM", 16, 0x1000, 0x2000, High + 1<<30},
	{"used ring across the end", 16, 0x1000, 0x2000, High + 1<<20 - 16},
	{"table that wraps", 16, ^uint64(15), 0x2000, 0x3000},
}

func one(addr uint64, n uint32, flags uint16) func(*VirtQueue) {
	return func(q *VirtQueue) {
		q.raw(0, VirtqDesc{addr, n, flags, 0})
		q.Send(0)
	}
}

// segments is how many descriptors a chain may have, an indirect one among them.
func (q *VirtQueue) segments() int {
	if n := q.D.Info.MaxSegments; n != 0 {
		return n
	}
	return q.Size
}

// raw sets descriptor i of the queue's table as it stands.
func (q *VirtQueue) raw(i int, v VirtqDesc) { q.SetDesc(q.Desc, i, v) }

// table makes an indirect table of one descriptor.
func (q *VirtQueue) table(v VirtqDesc) uint64 {
	at := q.D.M.Alloc(16, 16)
	q.SetDesc(at, 0, v)
	return at
}

// Hostile plays every attack against every queue of the device. After each one
// the device must reset and work again.
func Hostile(t *testing.T, s Subject) {
	if s.Budget == 0 {
		s.Budget = 4 << 20
	}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) { s.attack(t, a) })
	}
	for _, r := range badRings {
		t.Run("ring/"+r.name, func(t *testing.T) {
			d, stir := s.attach(t, 96<<20, true)
			for i := range int(d.Get(NumQueues)) {
				s.measured(d, func() {
					d.Negotiate(all)
					d.Set(QueueSelect, uint64(i))
					d.Set(QueueSize, uint64(r.size))
					d.Set(QueueDesc, r.desc)
					d.Set(QueueDriver, r.avail)
					d.Set(QueueDevice, r.used)
					d.Set(QueueEnable, 1)
					d.DriverOK()
					stir()
					d.NeedsReset()
				})
			}
			s.again(d)
		})
	}
	t.Run("rings on top of each other", func(t *testing.T) {
		d, stir := s.attach(t, 96<<20, true)
		for _, r := range [][3]uint64{{0x1000, 0x1000, 0x1000}, {0x1000, 0x1010, 0x1004}, {0x1000, 0x1100, 0x1100}} {
			for i := range int(d.Get(NumQueues)) {
				d.Negotiate(all)
				q := d.NewQueue(i, 16)
				d.Set(QueueDesc, r[0])
				d.Set(QueueDriver, r[1])
				d.Set(QueueDevice, r[2])
				q.Desc, q.Avail, q.Used = r[0], r[1], r[2]
				d.M.Write(0x1000, make([]byte, 0x200))
				q.Enable()
				d.DriverOK()
				s.measured(d, func() {
					for range 20 {
						q.SetDesc(q.Desc, 1, VirtqDesc{0x3000, 64, Write, 0})
						q.Send(1)
						stir()
					}
				})
			}
		}
		s.again(d)
	})
	t.Run("the most work", s.heavy)
	t.Run("sums beyond 4 GiB", s.narrow)
	t.Run("steps out of order", s.order)
	t.Run("rings rewritten while they are read", s.rewrite)
	t.Run("reset at any moment", s.resets)
	t.Run("every register", s.registers)
}

func (s Subject) attach(t testing.TB, memory uint64, bells bool) (*Driver, func()) {
	dev, stir := s.New(t)
	if stir == nil {
		stir = func() {}
	}
	return Attach(NewMachine(t, memory, bells), dev), stir
}

// measured runs f, which plays against d, and holds what the device did for it
// to the subject's bounds: bytes allocated, and bytes asked of the backend, both
// by what the driver asked for, however long it took. f leaves d in a state in
// which it can be reset.
func (s Subject) measured(d *Driver, f func()) (work uint64) {
	d.M.TB.Helper()
	var before, after runtime.MemStats
	starts, entries, done := d.Starts.Load(), d.Entries.Load(), s.Work.Load()
	runtime.ReadMemStats(&before)
	f()
	d.Reset() // waits for what is in flight
	runtime.ReadMemStats(&after)
	starts, entries, work = d.Starts.Load()-starts, d.Entries.Load()-entries, s.Work.Load()-done
	n, limit := after.TotalAlloc-before.TotalAlloc, s.Budget+starts*startBudget+entries*entryBudget
	if n > limit {
		d.M.TB.Errorf("%d bytes allocated for %d starts and %d entries, budget %d", n, starts, entries, limit)
	}
	if limit := entries * s.Entry; work > limit {
		d.M.TB.Errorf("%d bytes of work for %d entries, at most %d are allowed", work, entries, limit)
	}
	return work
}

// again proves that the device works after all, and leaves it at rest.
func (s Subject) again(d *Driver) {
	d.M.TB.Helper()
	d.Reset()
	if n := len(d.Start(all, 0)); n != int(d.Get(NumQueues)) {
		d.M.TB.Fatalf("%d queues", n)
	}
	d.Reset()
	s.Probe(d, d.Start(all, 0))
	d.Reset()
}

func (s Subject) attack(t *testing.T, a attack) {
	d, stir := s.attach(t, 96<<20, true)
	for i := range int(d.Get(NumQueues)) {
		q := d.Start(a.features, 0)[i]
		entries := d.Entries.Load()
		work := s.measured(d, func() {
			a.do(q)
			stir()
			if a.broken {
				d.NeedsReset()
				// A broken queue stays so, whatever is published.
				used := q.UsedIdx()
				q.Send(0)
				if d.Get(DeviceStatus)&virtio.StatusNeedsReset == 0 || q.UsedIdx() != used {
					t.Errorf("queue %d lives on", i)
				}
			}
		})
		if a.broken && work != 0 {
			t.Errorf("queue %d: %d bytes of work for a chain that breaks the rules", i, work)
		}
		if used := uint64(q.UsedIdx()); used > d.Entries.Load()-entries {
			t.Errorf("queue %d: %d chains came back of %d", i, used, d.Entries.Load()-entries)
		}
	}
	s.again(d)
}

// heavy asks for as much as the device does, several times in one notification.
func (s Subject) heavy(t *testing.T) {
	const times = 8
	d, _ := s.attach(t, 96<<20, true)
	for i := range int(d.Get(NumQueues)) {
		q := d.Start(all, 0)[i]
		chain := s.Heavy(q)
		if chain == nil {
			continue
		}
		before := s.Work.Load()
		s.measured(d, func() {
			head := q.Chain(chain...)
			for range times {
				q.Publish(head)
			}
			q.Kick()
			d.Eventually("all chains", func() bool { return q.UsedIdx() == times })
			d.Eventually("work", func() bool { return s.Work.Load() != before })
		})
	}
	s.again(d)
}

// narrow sends chains whose buffers together pass 4 GiB, all of them the same
// memory, so that a sum which is kept in 32 bits comes out small.
func (s Subject) narrow(t *testing.T) {
	const chunk = 80 << 20
	d, stir := s.attach(t, 96<<20, true)
	at := d.M.Alloc(chunk, 4096)
	begin := d.M.next
	heads := [][]byte{nil}
	for k := 0; k < len(s.Words); k += 2 {
		heads = append(heads, s.Words[k])
	}
	if s.Stream {
		s.Entry = 2 << 32
	}
	for i := range int(d.Get(NumQueues)) {
		for _, over := range []uint64{0, 16, 17, 513} { // beyond 4 GiB
			for _, flags := range []uint16{0, Write} {
				for k, head := range heads {
					d.M.rewindTo(begin)
					q := d.Start(all, 0)[i]
					var descs []VirtqDesc
					if head != nil {
						descs = append(descs, q.Out(head))
					}
					for n := uint64(1<<32 + over); n > 0; {
						size := min(n, chunk)
						descs = append(descs, VirtqDesc{at, uint32(size), flags, 0})
						n -= size
					}
					if flags == 0 {
						descs = append(descs, q.In(1))
					}
					s.measured(d, func() {
						q.Send(q.Chain(descs...))
						stir()
						for end := time.Now().Add(5 * time.Millisecond); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
							if q.UsedIdx() != 0 || d.Get(DeviceStatus)&virtio.StatusNeedsReset != 0 {
								break
							}
						}
						if _, n, ok := q.Poll(); ok && flags == 0 && n > 1 {
							t.Errorf("queue %d, request %d, %d bytes over: %d bytes written, where there is room for 1", i, k, over, n)
						}
					})
				}
			}
		}
	}
	d.M.rewindTo(begin)
	s.again(d)
}

// Restart starts the device anew with q where it was in memory, and the other
// queues off.
func (d *Driver) Restart(features uint64, q *VirtQueue) *VirtQueue {
	d.Negotiate(features)
	d.Set(QueueSelect, uint64(q.Index))
	d.Set(QueueSize, uint64(q.Size))
	d.Set(QueueDesc, q.Desc)
	d.Set(QueueDriver, q.Avail)
	d.Set(QueueDevice, q.Used)
	for _, at := range []uint64{q.Avail, q.Used} {
		q.must(d.M.Mem.StoreU16(at, 0))
		q.must(d.M.Mem.StoreU16(at+2, 0))
	}
	n := *q
	n.avail, n.seen = 0, 0
	n.EventIdx = d.Features&virtio.FeatureRingEventIdx != 0
	n.Enable()
	d.DriverOK()
	return &n
}

// resets throws resets of every kind into work in progress.
func (s Subject) resets(t *testing.T) {
	for _, bells := range []bool{false, true} {
		d, stir := s.attach(t, 96<<20, bells)
		var qs []*VirtQueue
		s.measured(d, func() {
			for i := range 100 {
				if i == 0 {
					qs = d.Start(all, 16)
				}
				for k, q := range qs {
					q = d.Restart(all, q)
					qs[k] = q
					d.Set(QueueSelect, uint64(q.Index))
					buf := q.D.M.Alloc(256, 16)
					for range 8 {
						q.Publish(q.Chain(VirtqDesc{buf, 64, 0, 0}, VirtqDesc{buf + 64, 64, Write, 0}))
					}
					q.Kick()
					stir()
					for range rand.IntN(200) {
						runtime.Gosched()
					}
					switch (i + k) % 6 {
					case 0:
						d.Reset()
					case 1:
						d.Set(QueueReset, 1)
					case 2:
						d.Dev.Pause()
						d.Dev.Resume()
					case 3:
						d.Dev.Pause()
						d.Dev.Reset()
						d.Dev.Resume()
					case 4:
						d.M.SetConfig(d.Slot, 4, 2, 2)
					case 5:
						d.M.SetConfig(d.Slot, 4, 2, 0)
						d.M.SetConfig(d.Slot, 4, 2, 6)
					}
				}
			}
			d.M.SetConfig(d.Slot, 4, 2, 6)
		})
		s.again(d)
		d.Dev.Halt()
	}
}

// registers reads and writes every offset of every BAR and of configuration
// space by every width, those that would be fatal to the test's own driver
// included.
func (s Subject) registers(t *testing.T) {
	d, _ := s.attach(t, 96<<20, false)
	s.measured(d, func() {
		values := []uint64{0, ^uint64(0), 1, 0x8000000080000001}
		for _, started := range []bool{false, true} {
			for _, bar := range d.bars {
				for off := range bar.size {
					if started && off%64 == 0 {
						d.M.rewind()
						d.Start(all, 16)
					}
					for _, size := range widths {
						d.M.Load(bar.base+off, size)
						for _, v := range values {
							d.M.Store(bar.base+off, size, v)
						}
						d.M.Load(bar.base+off, size)
					}
				}
			}
		}
		d.Reset()
		for off := range 0x1000 {
			for _, size := range widths {
				for _, v := range values {
					d.M.Store(d.M.configAddr(d.Slot, off), size, v)
					d.M.Load(d.M.configAddr(d.Slot, off), size)
				}
			}
		}
		d.Dev.Pause()
		d.Dev.Reset()
		d.Dev.Resume()
		d.Discover()
	})
	s.again(d)
}

// rewind makes all memory free again, for tests that start a device often.
func (m *Machine) rewind() { m.rewindTo(0x1000) }

func (m *Machine) rewindTo(at uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next = at
}
