// SPDX-License-Identifier: BSD-2-Clause

package blk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/skepvm/skep/vmm/block"
	"github.com/skepvm/skep/vmm/virtio"
)

// Feature bits (VIRTIO 1.2, section 5.2.3).
const (
	featureSizeMax     = 1 << 1
	featureSegMax      = 1 << 2
	featureReadOnly    = 1 << 5
	featureBlockSize   = 1 << 6
	featureFlush       = 1 << 9
	featureTopology    = 1 << 10
	featureConfigWCE   = 1 << 11
	featureMultiQueue  = 1 << 12
	featureDiscard     = 1 << 13
	featureWriteZeroes = 1 << 14
)

const (
	sectorSize = 512
	configSize = 60

	queueSize = 256
	segMax    = queueSize - 2 // the header and the status take one each
	sizeMax   = 1 << 20       // bytes of one segment, as advised to the driver

	// maxRequest bounds the data of one request; a driver that goes by seg_max
	// and size_max stays below.
	maxRequest = 1 << 30
	// maxSectors bounds a range of a discard or write-zeroes request, maxRanges
	// their number. Together they are at most the disk.
	maxSectors = 1 << 22 // 2 GiB
	maxRanges  = 64

	// helpers is how many requests of one queue may wait for the disk at once.
	helpers = 16
)

// Config is what a disk is made of.
type Config struct {
	Backend block.Backend // owned by the device
	// Serial is what the guest reads as the disk's identity, at most 20 bytes.
	Serial string
	// Queues is the number of request queues, 1..16; 0 means 1. One for each
	// vCPU is best.
	Queues int
	// NoDiscard hides discard and write-zeroes from the guest.
	NoDiscard bool
}

// Device is a virtio disk.
type Device struct {
	backend   block.Backend
	geo       block.Geometry
	serial    [20]byte
	queues    int
	discard   bool
	zero      bool
	writeback atomic.Bool // the driver flushes by itself
	canFlush  bool        // the driver knows the flush command

	reads, writes, flushes, discards, errors atomic.Uint64
	readBytes, writtenBytes                  atomic.Uint64
}

// Counters counts finished requests as the guest made them.
type Counters struct {
	Reads, Writes, Flushes uint64
	Discards               uint64 // write-zeroes too
	ReadBytes              uint64
	WrittenBytes           uint64
	Errors                 uint64 // requests of any kind that failed, which are not counted elsewhere
}

// Counters may be read at any time.
func (d *Device) Counters() Counters {
	return Counters{
		Reads: d.reads.Load(), Writes: d.writes.Load(), Flushes: d.flushes.Load(), Discards: d.discards.Load(),
		ReadBytes: d.readBytes.Load(), WrittenBytes: d.writtenBytes.Load(), Errors: d.errors.Load(),
	}
}

// count counts a request that was answered.
func (d *Device) count(r *request, status uint8) {
	if status != statusOK {
		d.errors.Add(1)
		return
	}
	switch r.kind {
	case typeIn:
		d.reads.Add(1)
		d.readBytes.Add(r.size)
	case typeOut:
		d.writes.Add(1)
		d.writtenBytes.Add(r.size)
	case typeFlush:
		d.flushes.Add(1)
	case typeDiscard, typeWriteZeroes:
		d.discards.Add(1)
	}
}

// New checks c and makes a disk of it.
func New(c Config) (*Device, error) {
	if c.Backend == nil {
		return nil, errors.New("virtio blk: no backend")
	}
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.Queues < 1 || c.Queues > 16 {
		return nil, fmt.Errorf("virtio blk: %d queues, not 1..16", c.Queues)
	}
	if len(c.Serial) > 20 {
		return nil, fmt.Errorf("virtio blk: serial %q is longer than 20 bytes", c.Serial)
	}
	d := &Device{backend: c.Backend, geo: c.Backend.Geometry(), queues: c.Queues}
	if l := d.geo.Logical; l < sectorSize || l > 1<<16 || l&(l-1) != 0 || d.geo.Size < 0 {
		return nil, fmt.Errorf("virtio blk: backend with sectors of %d bytes, size %d", l, d.geo.Size)
	}
	copy(d.serial[:], c.Serial)
	d.discard = d.geo.Discard && !c.NoDiscard
	d.zero = !d.geo.ReadOnly && !c.NoDiscard
	d.writeback.Store(true)
	return d, nil
}

// The methods of virtio.Device.

// Info describes the device.
func (d *Device) Info() virtio.Info {
	q := make([]uint16, d.queues)
	for i := range q {
		q[i] = queueSize
	}
	// Behind seg_max there are header, status and the indirect descriptor.
	return virtio.Info{Type: virtio.TypeBlock, Class: 0x018000, Name: "blk", Queues: q, MaxSegments: segMax + 3}
}

// Features offers what the backend can do.
func (d *Device) Features() uint64 {
	f := uint64(featureSizeMax | featureSegMax | featureBlockSize | featureFlush | featureTopology | featureConfigWCE)
	if d.geo.ReadOnly {
		f |= featureReadOnly
	}
	if d.queues > 1 {
		f |= featureMultiQueue
	}
	if d.discard {
		f |= featureDiscard
	}
	if d.zero {
		f |= featureWriteZeroes
	}
	return f
}

// Negotiated notes whether the driver will flush: one that does not gets every
// write made durable (VIRTIO 1.2, section 5.2.6.2).
func (d *Device) Negotiated(f uint64) error {
	d.canFlush = f&(featureFlush|featureConfigWCE) != 0
	d.writeback.Store(d.canFlush)
	return nil
}

// ReadConfig gives struct virtio_blk_config.
func (d *Device) ReadConfig(off int, p []byte) {
	var c [configSize]byte
	le := binary.LittleEndian
	le.PutUint64(c[0:], uint64(d.geo.Size/sectorSize))
	le.PutUint32(c[8:], sizeMax)
	le.PutUint32(c[12:], segMax)
	le.PutUint32(c[20:], uint32(d.geo.Logical))
	if d.geo.Physical > d.geo.Logical {
		ratio := uint(d.geo.Physical / d.geo.Logical)
		c[24] = byte(bits.Len(ratio) - 1)
		le.PutUint16(c[26:], uint16(min(ratio, 1<<15)))
	}
	if d.writeback.Load() {
		c[32] = 1
	}
	le.PutUint16(c[34:], uint16(d.queues))
	if d.discard {
		le.PutUint32(c[36:], maxSectors)
		le.PutUint32(c[40:], maxRanges)
		le.PutUint32(c[44:], uint32(d.geo.Logical/sectorSize))
	}
	if d.zero {
		le.PutUint32(c[48:], maxSectors)
		le.PutUint32(c[52:], maxRanges)
		c[56] = 1
	}
	if off < configSize {
		copy(p, c[off:])
	}
}

// WriteConfig takes the cache mode.
func (d *Device) WriteConfig(off int, p []byte) {
	if off == 32 && len(p) == 1 && d.canFlush {
		d.writeback.Store(p[0]&1 != 0)
	}
}

// Unblock has nothing to do: every wait here ends with the disk.
func (d *Device) Unblock(int) {}

// Reset forgets the cache mode.
func (d *Device) Reset() {
	d.canFlush = false
	d.writeback.Store(true)
}

// Halt makes durable what the guest wrote. What fails here the guest was never
// told to be durable.
func (d *Device) Halt() { _ = d.backend.Flush() }

// Close closes the backend.
func (d *Device) Close() error { return d.backend.Close() }
