// SPDX-License-Identifier: BSD-2-Clause

package virtio_test

import (
	"testing"

	"github.com/skepvm/skep/vmm/virtio"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

var subject = vt.Subject{
	New: func(testing.TB) (virtio.Device, func()) {
		e := newEcho()
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
