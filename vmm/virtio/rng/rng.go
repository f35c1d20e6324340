// SPDX-License-Identifier: BSD-2-Clause

package rng

import (
	"crypto/rand"
	"io"

	"github.com/skepvm/skep/vmm/virtio"
)

// maxRequest bounds what one request gets; a driver that wants more asks again,
// as the specification allows.
const maxRequest = 4096

// Device is an entropy source.
type Device struct{ src io.Reader }

// New makes a device that reads src, or the system's random numbers if nil.
func New(src io.Reader) *Device {
	if src == nil {
		src = rand.Reader
	}
	return &Device{src}
}

// The methods of virtio.Device.

// Info describes the device.
func (d *Device) Info() virtio.Info {
	return virtio.Info{Type: virtio.TypeRNG, Class: 0x00ff00, Name: "rng", Queues: []uint16{64}}
}

// Features has none of its own, and there is no configuration.
func (d *Device) Features() uint64        { return 0 }
func (d *Device) Negotiated(uint64) error { return nil }
func (d *Device) ReadConfig(int, []byte)  {}
func (d *Device) WriteConfig(int, []byte) {}
func (d *Device) Unblock(int)             {}
func (d *Device) Reset()                  {}
func (d *Device) Close() error            { return nil }

// Serve fills buffers. A failing source gives short answers, never old bytes.
func (d *Device) Serve(_ int, q *virtio.Queue) {
	var c virtio.Chain
	buf := make([]byte, maxRequest)
	for q.Wait() {
		for n := q.Size(); n > 0 && q.Pop(&c); n-- {
			want := min(c.InLen, maxRequest)
			got, _ := io.ReadFull(d.src, buf[:want])
			q.Push(&c, uint32(virtio.CopyIn(c.In, buf[:got])))
		}
		clear(buf)
		q.Interrupt()
	}
}
