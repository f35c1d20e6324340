// SPDX-License-Identifier: BSD-2-Clause

package virtio_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/virtio"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

// echo copies what it reads to what it may write. Queue 1 keeps every request
// until it is released.
type echo struct {
	hold     chan struct{}
	serving  atomic.Int32
	resets   atomic.Int32
	refuse   bool
	config   [16]byte
	features uint64
	work     *atomic.Uint64 // counts bytes, if not nil
}

func newEcho() *echo { return &echo{hold: make(chan struct{})} }

func (e *echo) Info() virtio.Info {
	return virtio.Info{Type: 42, Class: 0xff0000, Name: "echo", Queues: []uint16{128, 64}}
}
func (e *echo) Features() uint64 { return 1<<3 | 1<<40 }
func (e *echo) Negotiated(f uint64) error {
	if e.refuse {
		return errors.New("no")
	}
	e.features = f
	return nil
}
func (e *echo) ReadConfig(off int, p []byte) {
	if off < len(e.config) {
		copy(p, e.config[off:])
	}
}
func (e *echo) WriteConfig(off int, p []byte) {
	if off < len(e.config) {
		copy(e.config[off:], p)
	}
}
func (e *echo) Unblock(int)  {}
func (e *echo) Reset()       { e.resets.Add(1) }
func (e *echo) Close() error { return nil }

func (e *echo) Serve(i int, q *virtio.Queue) {
	e.serving.Add(1)
	defer e.serving.Add(-1)
	var c virtio.Chain
	for q.Wait() {
		for n := q.Size(); n > 0 && q.Pop(&c); n-- {
			if i == 1 {
				<-e.hold
			}
			n := uint32(0)
			in := c.In
			for _, b := range c.Out {
				k := virtio.CopyIn(in, b)
				in = virtio.Skip(in, uint64(k))
				n += uint32(k)
			}
			if e.work != nil {
				e.work.Add(uint64(max(n, 1)))
			}
			q.Push(&c, n)
		}
		q.Interrupt()
	}
}

// each runs a test with and without doorbells, event index and indirect chains.
func each(t *testing.T, f func(t *testing.T, m *vt.Machine, features uint64)) {
	for _, bells := range []bool{false, true} {
		for _, features := range []uint64{0, virtio.FeatureRingEventIdx, ^uint64(0)} {
			t.Run(fmt.Sprintf("doorbells=%v/features=%x", bells, features), func(t *testing.T) {
				f(t, vt.NewMachine(t, 8<<20, bells), features)
			})
		}
	}
}

func TestEcho(t *testing.T) {
	each(t, func(t *testing.T, m *vt.Machine, features uint64) {
		e := newEcho()
		d := vt.Attach(m, e)
		qs := d.Start(features, 16)
		if got := d.Get(vt.NumQueues); got != 2 {
			t.Errorf("%d queues", got)
		}
		for i := range 100 { // the ring of 16 wraps
			msg := fmt.Appendf(nil, "message %d", i)
			in := qs[0].In(64)
			if n := qs[0].Do(qs[0].Out(msg[:3]), qs[0].Out(msg[3:]), in); int(n) != len(msg) {
				t.Fatalf("%d bytes written, want %d", n, len(msg))
			}
			if got := m.Read(in.Addr, len(msg)); !bytes.Equal(got, msg) {
				t.Fatalf("got %q", got)
			}
		}
		if features&virtio.FeatureRingIndirect != 0 {
			in := qs[0].In(8)
			head := qs[0].IndirectChain(qs[0].Out([]byte("indirect")), in)
			qs[0].Send(head)
			if _, n := qs[0].Wait(); n != 8 {
				t.Fatalf("indirect: %d bytes", n)
			}
			if got := m.Read(in.Addr, 8); string(got) != "indirect" {
				t.Fatalf("indirect: %q", got)
			}
		}
		d.Reset()
		if e.serving.Load() != 0 || e.resets.Load() == 0 {
			t.Errorf("after reset: %d serving, %d resets", e.serving.Load(), e.resets.Load())
		}
		if d.Get(vt.QueueEnable) != 0 || d.Get(vt.QueueDesc) != 0 || d.Get(vt.QueueVector) != 0xffff {
			t.Error("a queue outlived the reset")
		}
	})
}

func TestINTx(t *testing.T) {
	m := vt.NewMachine(t, 8<<20, false)
	d := vt.Attach(m, newEcho())
	qs := d.Start(0, 16)
	// MSI-X off: the line must rise, and fall when ISR is read.
	for off := int(m.Config(d.Slot, 0x34, 1)); off != 0; off = int(m.Config(d.Slot, off+1, 1)) {
		if m.Config(d.Slot, off, 1) == 0x11 {
			m.SetConfig(d.Slot, off+2, 2, 0)
		}
	}
	line := int(m.Config(d.Slot, 0x3c, 1))
	for i := 1; i <= 3; i++ {
		qs[0].Send(qs[0].Chain(qs[0].Out([]byte("x"))))
		vt.Eventually(t, "line up", func() bool { up, _ := m.VM.Line(line); return up })
		if m.Config(d.Slot, 6, 2)&8 == 0 {
			t.Error("interrupt status bit is clear")
		}
		if isr := m.Load(d.ISR, 1); isr != 1 {
			t.Errorf("ISR %#x", isr)
		}
		if up, n := m.VM.Line(line); up || n != i {
			t.Errorf("line %v after ISR was read, rose %d times", up, n)
		}
	}
	m.SetConfig(d.Slot, 4, 2, 6|1<<10) // INTx disabled
	qs[0].Send(qs[0].Chain(qs[0].Out([]byte("x"))))
	vt.Eventually(t, "used", func() bool { return qs[0].UsedIdx() == 4 })
	vt.Eventually(t, "status", func() bool { return m.Config(d.Slot, 6, 2)&8 != 0 })
	if up, _ := m.VM.Line(line); up {
		t.Error("line up though disabled")
	}
	m.SetConfig(d.Slot, 4, 2, 6)
	if up, _ := m.VM.Line(line); !up {
		t.Error("line down though enabled and pending")
	}
	d.Reset()
	if up, _ := m.VM.Line(line); up {
		t.Error("line up after reset")
	}
}

func TestNegotiation(t *testing.T) {
	m := vt.NewMachine(t, 8<<20, false)
	e := newEcho()
	d := vt.Attach(m, e)
	if d.Offered()&(1<<3) == 0 || d.Offered()&virtio.FeatureVersion1 == 0 {
		t.Fatalf("offered %#x", d.Offered())
	}
	try := func(f uint64) bool {
		d.Reset()
		d.Set(vt.DeviceStatus, 1)
		d.Set(vt.DeviceStatus, 3)
		d.SetFeatures(f)
		d.Set(vt.DeviceStatus, 11)
		return d.Get(vt.DeviceStatus) == 11
	}
	if try(1 << 3) {
		t.Error("took a driver without VERSION_1")
	}
	if try(virtio.FeatureVersion1 | 1<<5) {
		t.Error("took a feature that was not offered")
	}
	if !try(virtio.FeatureVersion1|1<<3) || e.features != 1<<3 {
		t.Errorf("refused or garbled: %#x", e.features)
	}
	d.SetFeatures(0)
	d.Set(vt.DriverFeatureSelect, 1)
	if d.Get(vt.DriverFeature) != 1 {
		t.Error("features changed after FEATURES_OK")
	}
	e.refuse = true
	if try(virtio.FeatureVersion1) {
		t.Error("took what the device refused")
	}
	// DRIVER_OK before FEATURES_OK: the device must stay asleep.
	d.Set(vt.DeviceStatus, 7)
	if d.Get(vt.DeviceStatus)&4 != 0 || e.serving.Load() != 0 {
		t.Error("DRIVER_OK out of order was taken")
	}
}

// A request in flight holds up neither the vCPU for long nor a reset for ever;
// pause waits for it, and after resume the queue goes on where it was.
func TestPauseResetInFlight(t *testing.T) {
	each(t, func(t *testing.T, m *vt.Machine, features uint64) {
		e := newEcho()
		d := vt.Attach(m, e)
		qs := d.Start(features, 16)
		in := qs[1].In(4)
		qs[1].Send(qs[1].Chain(qs[1].Out([]byte("held")), in))
		paused := make(chan struct{})
		time.Sleep(time.Millisecond)
		go func() { d.Dev.Pause(); close(paused) }()
		select {
		case <-paused:
			if qs[1].UsedIdx() != 0 || e.serving.Load() != 0 {
				t.Error("pause left a request in flight")
			}
			// The queue had not taken it yet, which is fine.
		case <-time.After(20 * time.Millisecond):
			e.hold <- struct{}{}
			<-paused
			if qs[1].UsedIdx() != 1 {
				t.Error("pause returned before the request in flight was done")
			}
		}
		// Published while paused: found after resume, also without a kick.
		qs[0].Publish(qs[0].Chain(qs[0].Out([]byte("later"))))
		time.Sleep(2 * time.Millisecond)
		if qs[0].UsedIdx() != 0 {
			t.Error("served while paused")
		}
		d.Dev.Resume()
		qs[0].Wait()
		if qs[1].UsedIdx() == 0 {
			e.hold <- struct{}{}
		}
		qs[1].Wait()
		if got := m.Read(in.Addr, 4); string(got) != "held" {
			t.Errorf("got %q", got)
		}

		// Reset with one in flight: status stays until it is done.
		qs[1].Send(qs[1].Chain(qs[1].Out([]byte("held")), in))
		vt.Eventually(t, "taken", func() bool { return e.serving.Load() == 2 })
		time.Sleep(5 * time.Millisecond)
		d.Set(vt.DeviceStatus, 0)
		if d.Get(vt.DeviceStatus) != 0 {
			d.Set(vt.DeviceStatus, 1) // must be ignored while the reset goes on
			d.Set(vt.QueueSelect, 1)
			d.Set(vt.QueueEnable, 1)
			e.hold <- struct{}{}
			d.Eventually("reset", func() bool { return d.Get(vt.DeviceStatus) == 0 })
		}
		if e.serving.Load() != 0 {
			t.Error("serving after reset")
		}
		// And it works again.
		q := d.Start(features, 8)[0]
		if n := q.Do(q.Out([]byte("again")), q.In(5)); n != 5 {
			t.Errorf("after reset: %d bytes", n)
		}
	})
}

func TestQueueReset(t *testing.T) {
	m := vt.NewMachine(t, 8<<20, true)
	e := newEcho()
	d := vt.Attach(m, e)
	qs := d.Start(^uint64(0), 16)
	qs[0].Do(qs[0].Out([]byte("a")), qs[0].In(1))
	d.Set(vt.QueueSelect, 0)
	d.Set(vt.QueueReset, 1)
	d.Eventually("queue reset", func() bool { return d.Get(vt.QueueReset) == 0 })
	if d.Get(vt.QueueEnable) != 0 {
		t.Error("queue enabled after its reset")
	}
	q := d.NewQueue(0, 32)
	q.Enable()
	if n := q.Do(q.Out([]byte("bc")), q.In(2)); n != 2 {
		t.Errorf("after queue reset: %d bytes", n)
	}
	if e.resets.Load() != 1 { // the one before negotiation
		t.Errorf("device reset %d times", e.resets.Load())
	}
}

// A BAR that moves takes doorbells along; one that is off is no way in; bus
// mastering off stops all use of memory.
func TestBARMovesAndBusMaster(t *testing.T) {
	each(t, func(t *testing.T, m *vt.Machine, features uint64) {
		d := vt.Attach(m, newEcho())
		q := d.Start(features, 16)[0]
		for _, to := range []uint64{0xd0000000, 3 << 37} {
			m.SetConfig(d.Slot, 4, 2, 4) // memory off, master on
			if v := m.Load(d.Common+vt.DeviceStatus, 1); v != 0xff {
				t.Errorf("a switched off BAR answers %#x", v)
			}
			m.SetConfig(d.Slot, 0x20, 4, uint32(to))
			m.SetConfig(d.Slot, 0x24, 4, uint32(to>>32))
			m.SetConfig(d.Slot, 4, 2, 6)
			old := q
			d.Discover()
			if d.Common != to {
				t.Fatalf("BAR at %#x, want %#x", d.Common, to)
			}
			q = old.Again()
			if n := q.Do(q.Out([]byte("moved")), q.In(5)); n != 5 {
				t.Errorf("after the move: %d bytes", n)
			}
		}
		m.SetConfig(d.Slot, 4, 2, 2)
		before := q.UsedIdx()
		q.Send(q.Chain(q.Out([]byte("x"))))
		time.Sleep(2 * time.Millisecond)
		if q.UsedIdx() != before {
			t.Error("DMA without bus mastering")
		}
		m.SetConfig(d.Slot, 4, 2, 6)
		q.Wait()
	})
}

// TestDoorbells: every queue that is served has a doorbell where its notify
// register is, if the hypervisor has any to give. Without one all works as well,
// but slower: nothing else tells.
func TestDoorbells(t *testing.T) {
	never := errors.New("no doorbells left")
	for name, c := range map[string]struct {
		refuse func(addr uint64, size int) error
		size   int // of the writes that ring, -1: none are had
	}{
		"of any size": {nil, 0},
		"of two bytes": {func(_ uint64, size int) error {
			if size == 0 {
				return errors.ErrUnsupported
			}
			return nil
		}, 2},
		"none left": {func(uint64, int) error { return never }, -1},
	} {
		t.Run(name, func(t *testing.T) {
			m := vt.NewMachine(t, 8<<20, true)
			m.VM.Refuse = c.refuse
			d := vt.Attach(m, newEcho())
			check := func(when string, qs ...*vt.VirtQueue) {
				t.Helper()
				want := map[uint64]int{}
				for _, q := range qs {
					if c.size >= 0 {
						want[q.NotifyAddr()] = c.size
					}
				}
				if got := m.VM.Bells(); !maps.Equal(got, want) {
					t.Errorf("%s: doorbells %x, want %x", when, got, want)
				}
			}
			check("before the driver is ready")
			qs := d.Start(0, 16)
			check("served", qs...)
			if n := qs[0].Do(qs[0].Out([]byte("ring")), qs[0].In(4)); n != 4 {
				t.Errorf("%d bytes", n)
			}
			m.SetConfig(d.Slot, 4, 2, 4) // memory off, master on
			check("without a BAR")
			m.SetConfig(d.Slot, 0x20, 4, 0)
			m.SetConfig(d.Slot, 0x24, 4, 3<<5)
			m.SetConfig(d.Slot, 4, 2, 6)
			d.Discover()
			check("moved", qs[0].Again(), qs[1].Again())
			d.Reset()
			check("after a reset")
		})
	}
}

func TestConfigChange(t *testing.T) {
	m := vt.NewMachine(t, 8<<20, false)
	e := newEcho()
	copy(e.config[:], "0123456789abcdef")
	d := vt.Attach(m, e)
	if got := string(d.ReadConfig(0, 18)); got != "0123456789abcdef\x00\x00" {
		t.Errorf("config %q", got)
	}
	if v := m.Load(d.Device+2, 4); v != 0x35343332 {
		t.Errorf("32-bit read %#x", v)
	}
	d.Start(0, 8)
	gen := d.Get(vt.ConfigGeneration)
	d.Dev.ConfigChanged()
	<-d.Config.C
	if d.Get(vt.ConfigGeneration) == gen {
		t.Error("generation stands still")
	}
	d.Dev.Pause()
	d.Dev.ConfigChanged()
	if n := d.Config.Count(); n != 1 {
		t.Errorf("%d interrupts while paused", n)
	}
	d.Dev.Resume()
	<-d.Config.C
	m.Store(d.Device+4, 2, 0x5858)
	if got := string(d.ReadConfig(3, 4)); got != "3XX6" {
		t.Errorf("after write %q", got)
	}
}

func TestEventIdxCoalesces(t *testing.T) {
	m := vt.NewMachine(t, 8<<20, true)
	d := vt.Attach(m, newEcho())
	q := d.Start(virtio.FeatureRingEventIdx, 64)[0]
	q.Do(q.Out([]byte("first"))) // the first one is always signalled, if after it is seen
	vt.Eventually(t, "the first interrupt", func() bool { return q.IRQ.Count() == 1 })
	n := q.IRQ.Count()
	q.SetUsedEvent(1 + 49) // tell me at the fiftieth
	for range 49 {
		q.Publish(q.Chain(q.Out([]byte("x"))))
	}
	q.Kick()
	vt.Eventually(t, "49 used", func() bool { return q.UsedIdx() == 50 })
	time.Sleep(time.Millisecond)
	if got := q.IRQ.Count(); got != n {
		t.Errorf("%d interrupts before the event index", got-n)
	}
	q.Send(q.Chain(q.Out([]byte("x"))))
	vt.Eventually(t, "the interrupt at the fiftieth", func() bool { return q.IRQ.Count() == n+1 })
}

func TestCloseGivesBack(t *testing.T) {
	m := vt.NewMachine(t, 8<<20, true)
	e := newEcho()
	d := vt.Attach(m, e)
	d.Start(0, 8)
	vt.Eventually(t, "serving", func() bool { return e.serving.Load() == 2 })
	d.Dev.Halt()
	if e.serving.Load() != 0 {
		t.Error("serving after halt")
	}
	if err := d.Dev.Close(); err != nil {
		t.Error(err)
	}
	if n := m.VM.Open(); n != 0 {
		t.Errorf("%d MSIs and doorbells are left", n)
	}
}
