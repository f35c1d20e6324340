// SPDX-License-Identifier: BSD-2-Clause

package virtio_test

import (
	"sync/atomic"
	"testing"

	"github.com/skepvm/skep/vmm/virtio"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

// echoed counts the bytes that the subjects have copied.
var echoed atomic.Uint64

var subject = vt.Subject{
	Work:   &echoed,
	Entry:  128 << 20, // a MiB for each descriptor of a chain
	Stream: true,
	Heavy: func(q *vt.VirtQueue) []vt.VirtqDesc {
		return []vt.VirtqDesc{q.Out(make([]byte, 1<<20)), q.In(1 << 20)}
	},
	New: func(testing.TB) (virtio.Device, func()) {
		e := newEcho()
		e.work = &echoed
		close(e.hold) // nothing is held
		return e, nil
	},
	Probe: func(d *vt.Driver, qs []*vt.VirtQueue) {
		for i, q := range qs {
			in := q.In(4)
			if n := q.Do(q.Out([]byte("ping")), in); n != 4 || string(d.M.Read(in.Addr, 4)) != "ping" {
				d.M.TB.Errorf("queue %d: %d bytes, %q", i, n, d.M.Read(in.Addr, 4))
			}
		}
	},
}

func TestHostile(t *testing.T)   { vt.Hostile(t, subject) }
func FuzzVirtqueue(f *testing.F) { vt.Fuzz(f, subject) }
