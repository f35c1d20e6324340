// SPDX-License-Identifier: BSD-2-Clause

package console_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/skepvm/skep/vmm/virtio"
	"github.com/skepvm/skep/vmm/virtio/console"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

// last keeps the end of what is written.
type last struct {
	sink
	n *atomic.Uint64 // counts bytes
}

func (l *last) Write(p []byte) (int, error) {
	l.n.Add(uint64(max(len(p), 1)))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() > 1<<16 {
		l.b.Reset()
	}
	return l.b.Write(p)
}

func subject() vt.Subject {
	var out *last
	var dev *console.Device
	n := new(atomic.Uint64)
	return vt.Subject{
		Work:   n,
		Entry:  64 << 20, // a MiB for each descriptor of a chain
		Stream: true,
		Heavy: func(q *vt.VirtQueue) []vt.VirtqDesc {
			if q.Index == 0 {
				return nil
			}
			return []vt.VirtqDesc{q.Out(make([]byte, 1<<20))}
		},
		New: func(testing.TB) (virtio.Device, func()) {
			out = &last{n: n}
			dev = console.New(out)
			d := dev
			return d, func() { d.TryWrite([]byte("input")) }
		},
		Probe: func(d *vt.Driver, qs []*vt.VirtQueue) {
			qs[1].Do(qs[1].Out([]byte("a sign of life")))
			vt.Eventually(d.M.TB, "output", func() bool { return strings.HasSuffix(out.String(), "a sign of life") })
			dev.TryWrite([]byte("typed"))
			qs[0].Send(qs[0].Chain(qs[0].In(64)))
			if _, n := qs[0].Wait(); n == 0 {
				d.M.TB.Error("nothing was read")
			}
		},
	}
}

func TestHostile(t *testing.T) { vt.Hostile(t, subject()) }

func FuzzConsole(f *testing.F) { vt.Fuzz(f, subject()) }
