// SPDX-License-Identifier: BSD-2-Clause

package net

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/skepvm/skep/vmm/virtio"
)

// Feature bits (VIRTIO 1.2, section 5.1.3).
const (
	featureCsum      = 1 << 0
	featureGuestCsum = 1 << 1
	featureMTU       = 1 << 3
	featureMAC       = 1 << 5
	featureGuestTSO4 = 1 << 7
	featureGuestTSO6 = 1 << 8
	featureGuestECN  = 1 << 9
	featureGuestUFO  = 1 << 10
	featureHostTSO4  = 1 << 11
	featureHostTSO6  = 1 << 12
	featureHostECN   = 1 << 13
	featureHostUFO   = 1 << 14
	featureMrgRxbuf  = 1 << 15
	featureStatus    = 1 << 16
	featureGuestUSO4 = 1 << 54
	featureGuestUSO6 = 1 << 55
	featureHostUSO   = 1 << 56
)

// Offload says which work on frames the far side leaves undone: checksums not
// computed, segments not cut.
type Offload uint8

// The offloads. All but Csum need Csum.
const (
	Csum Offload = 1 << iota
	TSO4
	TSO6
	ECN
	UFO
	USO4
	USO6
)

// HeaderSize is the length of struct virtio_net_hdr_v1 (VIRTIO 1.2, section
// 5.1.6) before every frame, in both directions.
const HeaderSize = 12

// MaxFrame is the largest frame with header: a 64 KiB segment and its Ethernet
// and VLAN headers.
const MaxFrame = HeaderSize + 18 + 65535

// ErrAgain is answered by ReadV when no frame is waiting.
var ErrAgain = errors.New("no frame")

// Backend is the wire. Every frame begins with a header of HeaderSize bytes.
// ReadV and WriteV are each called by one goroutine at a time.
type Backend interface {
	// Offloads is what the wire can take from the guest and give to it.
	Offloads() Offload
	// SetOffload tells what the wire may give to the guest.
	SetOffload(Offload) error
	// ReadV reads one frame. With wait it waits for one until Interrupt, else it
	// answers ErrAgain. What does not fit is cut.
	ReadV(bufs [][]byte, wait bool) (int, error)
	// WriteV writes one frame; where there is no room it is lost.
	WriteV(bufs [][]byte) error
	// Interrupt makes a waiting ReadV, or else the next one that would wait,
	// answer ErrAgain, until Rearm.
	Interrupt()
	Rearm()
	Close() error
}

// Config is what a network device is made of.
type Config struct {
	Backend Backend // owned by the device
	MAC     net.HardwareAddr
	MTU     uint16 // told to the guest; 0 leaves it its default
	// NoOffload hides checksum and segmentation offload from the guest.
	NoOffload bool
	// QueueSize is the number of descriptors a queue, a power of two in
	// 64..1024; 0 means 256.
	QueueSize uint16
}

const rx, tx = 0, 1

// Device is a virtio network device.
type Device struct {
	backend   Backend
	can       Offload
	mac       [6]byte
	mtu       uint16
	queueSize uint16
	down      atomic.Bool
	transport virtio.Transport

	merge atomic.Bool // the driver takes a frame in several buffers

	rxFrames, rxBytes, rxDropped atomic.Uint64
	txFrames, txBytes, txDropped atomic.Uint64
}

// New checks c and makes a device of it.
func New(c Config) (*Device, error) {
	d := &Device{backend: c.Backend, mtu: c.MTU, queueSize: c.QueueSize}
	if c.Backend == nil {
		return nil, errors.New("virtio net: no backend")
	}
	if len(c.MAC) != 6 || c.MAC[0]&1 != 0 {
		return nil, fmt.Errorf("virtio net: %q is no unicast Ethernet address", c.MAC)
	}
	copy(d.mac[:], c.MAC)
	if !c.NoOffload {
		d.can = c.Backend.Offloads()
	}
	if c.MTU != 0 && c.MTU < 68 {
		return nil, fmt.Errorf("virtio net: MTU %d is below 68", c.MTU)
	}
	if d.queueSize == 0 {
		d.queueSize = 256
	}
	if s := d.queueSize; s < 64 || s > 1024 || s&(s-1) != 0 {
		return nil, fmt.Errorf("virtio net: queue size %d", s)
	}
	return d, nil
}

// Counters counts frames and their bytes: Rx is towards the guest. What was
// dropped found no room, or was no frame.
type Counters struct {
	RxFrames, RxBytes, RxDropped uint64
	TxFrames, TxBytes, TxDropped uint64
}

// Counters may be read at any time.
func (d *Device) Counters() Counters {
	return Counters{
		RxFrames: d.rxFrames.Load(), RxBytes: d.rxBytes.Load(), RxDropped: d.rxDropped.Load(),
		TxFrames: d.txFrames.Load(), TxBytes: d.txBytes.Load(), TxDropped: d.txDropped.Load(),
	}
}

// SetLink plugs the cable in or out, as the guest sees it.
func (d *Device) SetLink(up bool) {
	if d.down.Swap(!up) == up && d.transport != nil {
		d.transport.ConfigChanged()
	}
}

// Bind implements virtio.Binder.
func (d *Device) Bind(t virtio.Transport) { d.transport = t }

// The methods of virtio.Device.

// Info describes the device.
func (d *Device) Info() virtio.Info {
	return virtio.Info{
		Type: virtio.TypeNet, Class: 0x020000, Name: "net",
		Queues: []uint16{d.queueSize, d.queueSize},
		// A frame of 64 KiB in pages with its header, and then some.
		MaxSegments: int(d.queueSize) + 1,
	}
}

// offloads pairs each offload with its feature bits.
var offloads = []struct {
	o           Offload
	host, guest uint64
}{
	{Csum, featureCsum, featureGuestCsum},
	{TSO4, featureHostTSO4, featureGuestTSO4},
	{TSO6, featureHostTSO6, featureGuestTSO6},
	{ECN, featureHostECN, featureGuestECN},
	{UFO, featureHostUFO, featureGuestUFO},
	{USO4, 0, featureGuestUSO4},
	{USO6, 0, featureGuestUSO6},
}

// Features offers what the wire can do.
func (d *Device) Features() uint64 {
	f := uint64(featureMAC | featureMrgRxbuf | featureStatus)
	if d.mtu != 0 {
		f |= featureMTU
	}
	for _, o := range offloads {
		if d.can&o.o != 0 {
			f |= o.host | o.guest
		}
	}
	if d.can&(USO4|USO6) == USO4|USO6 {
		f |= featureHostUSO
	}
	return f
}

// Negotiated tells the wire what the driver takes.
func (d *Device) Negotiated(f uint64) error {
	var want Offload
	for _, o := range offloads {
		if f&o.guest != 0 {
			want |= o.o
		}
	}
	if want&Csum == 0 && want != 0 {
		return fmt.Errorf("virtio net: segmentation without checksum offload (features %#x)", f)
	}
	d.merge.Store(f&featureMrgRxbuf != 0)
	return d.backend.SetOffload(want)
}

// ReadConfig gives struct virtio_net_config.
func (d *Device) ReadConfig(off int, p []byte) {
	var c [12]byte
	copy(c[:], d.mac[:])
	if !d.down.Load() {
		c[6] = 1
	}
	binary.LittleEndian.PutUint16(c[8:], 1)
	binary.LittleEndian.PutUint16(c[10:], d.mtu)
	if off < len(c) {
		copy(p, c[off:])
	}
}

// WriteConfig ignores writes: the driver of today has nothing to write.
func (d *Device) WriteConfig(int, []byte) {}

// Unblock wakes the receiver.
func (d *Device) Unblock(i int) {
	if i == rx {
		d.backend.Interrupt()
	}
}

// Reset switches offloads off.
func (d *Device) Reset() {
	d.merge.Store(false)
	_ = d.backend.SetOffload(0) // the next driver's Negotiated reports what fails
}

// Close closes the wire.
func (d *Device) Close() error { return d.backend.Close() }

// Serve moves frames.
func (d *Device) Serve(i int, q *virtio.Queue) {
	if i == tx {
		d.transmit(q)
		return
	}
	d.backend.Rearm()
	if !q.Stopping() { // else Interrupt came before Rearm
		newReceiver(d, q).run()
	}
}

// transmit sends what the guest has queued.
func (d *Device) transmit(q *virtio.Queue) {
	var c virtio.Chain
	for q.Wait() {
		for n := q.Size(); n > 0 && q.Pop(&c); n-- {
			// The tap checks the header's contents.
			if c.OutLen <= HeaderSize || c.OutLen > MaxFrame || d.down.Load() || d.backend.WriteV(c.Out) != nil {
				d.txDropped.Add(1)
			} else {
				d.txFrames.Add(1)
				d.txBytes.Add(c.OutLen - HeaderSize)
			}
			q.Push(&c, 0)
		}
		q.Interrupt()
	}
}
