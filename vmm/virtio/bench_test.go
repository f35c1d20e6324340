// SPDX-License-Identifier: BSD-2-Clause

package virtio_test

import (
	"fmt"
	"testing"

	"github.com/skepvm/skep/vmm/virtio"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

// drain takes every chain in batches on the benchmark's own goroutine.
type drain struct {
	*echo
	batch func(q *virtio.Queue)
	done  chan struct{}
}

func (d *drain) Serve(i int, q *virtio.Queue) {
	if i == 0 && d.batch != nil {
		d.batch(q)
		d.batch = nil
		close(d.done)
	}
	for q.Wait() {
		return
	}
}

// BenchmarkQueue is the device's cost of one chain of three descriptors: pop,
// push, and an interrupt for every 32. It must not allocate.
func BenchmarkQueue(b *testing.B) {
	for _, indirect := range []bool{false, true} {
		b.Run(fmt.Sprintf("indirect=%v", indirect), func(b *testing.B) {
			dev := &drain{echo: newEcho(), done: make(chan struct{})}
			d := vt.Attach(vt.NewMachine(b, 8<<20, true), dev)
			d.Negotiate(^uint64(0))
			q := d.NewQueue(0, 128)
			descs := []vt.VirtqDesc{q.In(16), q.In(4096), q.In(1)}
			descs[0].Flags = 0
			for range 32 {
				if indirect {
					q.Publish(q.IndirectChain(descs...))
				} else {
					q.Publish(q.Chain(descs...))
				}
			}
			var c virtio.Chain
			dev.batch = func(q *virtio.Queue) {
				b.ReportAllocs()
				b.ResetTimer()
				for i := 0; i < b.N; {
					k := 0
					for ; k < 32 && q.Pop(&c); k++ {
						q.Push(&c, 1)
					}
					i += k
					q.Interrupt()
					if k != 32 {
						b.Errorf("%d chains", k)
						return
					}
					q.Return(32) // the same ones again
				}
				b.StopTimer()
			}
			q.Enable()
			d.DriverOK()
			<-dev.done
		})
	}
}

// BenchmarkRoundTrip is a request by a driver that waits for each: notification,
// chain, interrupt.
func BenchmarkRoundTrip(b *testing.B) {
	d := vt.Attach(vt.NewMachine(b, 8<<20, true), newEcho())
	q := d.Start(^uint64(0), 0)[0]
	out, in := q.Out(make([]byte, 16)), q.In(16)
	b.ReportAllocs()
	for b.Loop() {
		q.Do(out, in)
	}
}

func TestQueueAllocatesNothing(t *testing.T) {
	dev := &drain{echo: newEcho(), done: make(chan struct{})}
	d := vt.Attach(vt.NewMachine(t, 8<<20, true), dev)
	d.Negotiate(^uint64(0))
	q := d.NewQueue(0, 128)
	q.Publish(q.Chain(q.Out(make([]byte, 16)), q.In(100), q.In(1)))
	var c virtio.Chain
	dev.batch = func(q *virtio.Queue) {
		if n := testing.AllocsPerRun(100, func() {
			if !q.Pop(&c) {
				t.Error("no chain")
			}
			q.Push(&c, 1)
			q.Interrupt()
			q.Return(1)
		}); n != 0 {
			t.Errorf("%v allocations for a chain", n)
		}
	}
	q.Enable()
	d.DriverOK()
	<-dev.done
}
