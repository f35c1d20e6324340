// SPDX-License-Identifier: BSD-2-Clause

package net_test

import (
	"os"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/virtio"
	vnet "github.com/skepvm/skep/vmm/virtio/net"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

// subject is a device whose wire leads to far.
func subject() vt.Subject {
	var far *os.File
	return vt.Subject{
		New: func(tb testing.TB) (virtio.Device, func()) {
			b, f := pair(tb, vnet.Csum|vnet.TSO4)
			far = f
			dev, err := vnet.New(vnet.Config{Backend: b, MAC: mac})
			if err != nil {
				tb.Fatal(err)
			}
			return dev, func() { f.Write(frame(200, 3)) }
		},
		Probe: func(d *vt.Driver, qs []*vt.VirtQueue) {
			far.SetDeadline(time.Now().Add(vt.Patience))
			for range 8 {
				qs[0].Publish(qs[0].Chain(qs[0].In(2048)))
			}
			qs[0].Kick()
			far.Write(frame(100, 1))
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
