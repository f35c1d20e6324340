// SPDX-License-Identifier: BSD-2-Clause

package rng_test

import (
	"testing"

	"github.com/skepvm/skep/vmm/virtio"
	"github.com/skepvm/skep/vmm/virtio/rng"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

var subject = vt.Subject{
	New: func(testing.TB) (virtio.Device, func()) { return rng.New(nil), nil },
	Probe: func(d *vt.Driver, qs []*vt.VirtQueue) {
		if n := qs[0].Do(qs[0].In(32)); n != 32 {
			d.M.TB.Errorf("%d bytes", n)
		}
	},
}

func TestHostile(t *testing.T) { vt.Hostile(t, subject) }

func FuzzRNG(f *testing.F) { vt.Fuzz(f, subject) }
