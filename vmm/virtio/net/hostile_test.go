// SPDX-License-Identifier: BSD-2-Clause

package net_test

import (
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/virtio"
	vnet "github.com/skepvm/skep/vmm/virtio/net"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

// counted is a wire that counts its bytes and, at least one for each, its frames.
type counted struct {
	vnet.Backend
	n *atomic.Uint64
}

func (c counted) ReadV(bufs [][]byte, wait bool) (int, error) {
	n, err := c.Backend.ReadV(bufs, wait)
	if err == nil {
		c.n.Add(uint64(max(n, 1)))
	}
	return n, err
}

func (c counted) WriteV(bufs [][]byte) error {
	n := uint64(1)
	for _, p := range bufs {
		n += uint64(len(p))
	}
	c.n.Add(n)
	return c.Backend.WriteV(bufs)
}

// put sends a frame to the device, unless frames that nobody reads fill the wire.
func put(far *os.File, frame []byte) {
	far.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	far.Write(frame)
}

// subject is a device whose wire leads to far.
func subject() vt.Subject {
	var far *os.File
	n := new(atomic.Uint64)
	return vt.Subject{
		Work: n,
		// One frame out, and those that come in beside it.
		Entry: 2 * vnet.MaxFrame,
		Heavy: func(q *vt.VirtQueue) []vt.VirtqDesc {
			if q.Index == 0 {
				return nil
			}
			return []vt.VirtqDesc{q.Out(make([]byte, vnet.MaxFrame))}
		},
		New: func(tb testing.TB) (virtio.Device, func()) {
			b, f := pair(tb, vnet.Csum|vnet.TSO4)
			far = f
			dev, err := vnet.New(vnet.Config{Backend: counted{b, n}, MAC: mac})
			if err != nil {
				tb.Fatal(err)
			}
			return dev, func() { put(f, frame(200, 3)) }
		},
		Probe: func(d *vt.Driver, qs []*vt.VirtQueue) {
			for range 8 {
				qs[0].Publish(qs[0].Chain(qs[0].In(2048)))
			}
			qs[0].Kick()
			put(far, frame(100, 1))
			far.SetDeadline(time.Now().Add(vt.Patience))
			qs[0].Wait()
			// Frames that the attack got through fill the wire, which drops what
			// has no room.
			buf := make([]byte, vnet.MaxFrame+100)
			far.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
			for range 100000 {
				if _, err := far.Read(buf); err != nil {
					break
				}
			}
			far.SetReadDeadline(time.Now().Add(vt.Patience))
			qs[1].Do(qs[1].Out(frame(77, 5)))
			for range 100000 {
				n, err := far.Read(buf)
				if err != nil {
					d.M.TB.Fatal(err)
				}
				if n == vnet.HeaderSize+77 && buf[12] == 5 && buf[13] == 6 {
					return
				}
			}
			d.M.TB.Error("the frame never came")
		},
	}
}

func TestHostile(t *testing.T) { vt.Hostile(t, subject()) }

func FuzzNet(f *testing.F) { vt.Fuzz(f, subject()) }
