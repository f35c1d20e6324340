// SPDX-License-Identifier: BSD-2-Clause

package rng_test

import (
	"crypto/rand"
	"sync/atomic"
	"testing"

	"github.com/skepvm/skep/vmm/virtio"
	"github.com/skepvm/skep/vmm/virtio/rng"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

// source counts what is taken from the system's random numbers.
type source struct{ n atomic.Uint64 }

func (s *source) Read(p []byte) (int, error) {
	s.n.Add(uint64(max(len(p), 1)))
	return rand.Read(p)
}

func subject() vt.Subject {
	src := &source{}
	return vt.Subject{
		Work:  &src.n,
		Entry: 4096,
		Heavy: func(q *vt.VirtQueue) []vt.VirtqDesc { return []vt.VirtqDesc{q.In(1 << 20)} },
		New:   func(testing.TB) (virtio.Device, func()) { return rng.New(src), nil },
		Probe: func(d *vt.Driver, qs []*vt.VirtQueue) {
			if n := qs[0].Do(qs[0].In(32)); n != 32 {
				d.M.TB.Errorf("%d bytes", n)
			}
		},
	}
}

func TestHostile(t *testing.T) { vt.Hostile(t, subject()) }

func FuzzRNG(f *testing.F) { vt.Fuzz(f, subject()) }
