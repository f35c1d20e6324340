// SPDX-License-Identifier: BSD-2-Clause

package vmm

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/block"
	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/virtio"
	vnet "github.com/skepvm/skep/vmm/virtio/net"
)

// ram is a disk in memory.
type ram struct {
	mu sync.Mutex
	b  []byte
}

func (r *ram) Geometry() block.Geometry {
	return block.Geometry{Size: int64(len(r.b)), Logical: 512, Physical: 4096, Discard: true, Zero: true}
}

func (r *ram) ReadV(bufs [][]byte, off int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range bufs {
		off += int64(copy(p, r.b[off:]))
	}
	return nil
}

func (r *ram) WriteV(bufs [][]byte, off int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range bufs {
		off += int64(copy(r.b[off:], p))
	}
	return nil
}

func (r *ram) WriteZeroes(off, n int64, _ bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.b[off : off+n])
	return nil
}

func (r *ram) TryReadV([][]byte, int64) error { return block.ErrWouldBlock }
func (r *ram) Flush() error                   { return nil }
func (r *ram) Discard(off, n int64) error     { return r.WriteZeroes(off, n, true) }
func (r *ram) Close() error                   { return nil }

// echo is a wire that gives back the frame that was sent last.
type echo struct {
	mu          sync.Mutex
	cond        *sync.Cond
	frame       []byte
	interrupted bool
}

func newEcho() *echo {
	e := &echo{}
	e.cond = sync.NewCond(&e.mu)
	return e
}

func (e *echo) Offloads() vnet.Offload        { return vnet.Csum | vnet.TSO4 }
func (e *echo) SetOffload(vnet.Offload) error { return nil }
func (e *echo) Interrupt()                    { e.set(true) }
func (e *echo) Rearm()                        { e.set(false) }
func (e *echo) Close() error                  { return nil }
func (e *echo) set(interrupted bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.interrupted = interrupted
	e.cond.Broadcast()
}
func (e *echo) WriteV(bufs [][]byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.frame = nil
	for _, p := range bufs {
		e.frame = append(e.frame, p...)
	}
	e.cond.Broadcast()
	return nil
}

func (e *echo) ReadV(bufs [][]byte, wait bool) (n int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.frame == nil && wait && !e.interrupted {
		e.cond.Wait()
	}
	if e.frame == nil {
		return 0, vnet.ErrAgain
	}
	for _, p := range bufs {
		n += copy(p, e.frame[n:])
	}
	e.frame = nil
	return n, nil
}

// The slots of what withDevices adds.
const (
	slotConsole = iota + 1
	slotDisk
	slotNIC
	slotRNG
)

// withDevices gives a machine one of each virtio device, on memory.
func withDevices(c *Config) {
	c.Console = io.Discard
	c.Disks = []Disk{{Backend: &ram{b: make([]byte, 64<<10)}, Queues: 1}}
	c.NICs = []NIC{{Backend: newEcho(), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}
	c.NoRNG = false
	c.Backend.(*fakeBackend).mapped = true // the devices race for it with the guest
}

// inside runs f as the guest on a vCPU and waits for its end; false says that
// the machine ended before.
func (b *bench) inside(cpu int, f func(hv.Handler)) bool {
	b.t.Helper()
	done := make(chan struct{})
	b.guest(cpu, func(h hv.Handler) (hv.Exit, error) {
		defer close(done)
		f(h)
		return nil, nil
	})
	t := time.NewTimer(time.Minute)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-b.ran:
		return false
	case <-t.C:
		b.t.Fatal("an access does not come back")
		return false
	}
}

// driver is a guest's driver of the virtio device in a slot.
type driver struct {
	m    *Machine
	h    hv.Handler
	slot int
	regs uint64 // where the virtio structures are
	// patience is how long it waits for what the device must do; 0 means long.
	patience time.Duration
}

func (d *driver) config(off, size int) uint32 {
	return uint32(d.h.MMIORead(ecamBase+uint64(d.slot)<<15+uint64(off), size))
}

func (d *driver) setConfig(off, size int, v uint32) {
	d.h.MMIOWrite(ecamBase+uint64(d.slot)<<15+uint64(off), size, uint64(v))
}

// bar is where a memory BAR is.
func (d *driver) bar(n int) uint64 {
	lo := d.config(0x10+4*n, 4)
	at := uint64(lo &^ 15)
	if lo&6 == 4 {
		at |= uint64(d.config(0x14+4*n, 4)) << 32
	}
	return at
}

const ringSize = 8

// ring is where queue q of the device has its table, and its buffers after it.
func (d *driver) ring(q int) uint64 { return 0x100000 + uint64(d.slot)<<16 + uint64(q)<<13 }

// start resets the device, gives it all of its queues and lets it run.
func (d *driver) start() error {
	d.setConfig(4, 2, 6)
	d.regs = d.bar(4)
	set := func(reg uint64, size int, v uint64) { d.h.MMIOWrite(d.regs+reg, size, v) }
	set(0x14, 1, 0)
	if err := d.until("reset", func() bool { return d.h.MMIORead(d.regs+0x14, 1) == 0 }); err != nil {
		return err
	}
	set(0x14, 1, virtio.StatusAcknowledge|virtio.StatusDriver)
	set(0x08, 4, 1)
	set(0x0c, 4, virtio.FeatureVersion1>>32)
	set(0x14, 1, virtio.StatusAcknowledge|virtio.StatusDriver|virtio.StatusFeaturesOK)
	for q := range int(min(d.h.MMIORead(d.regs+0x12, 2), 4)) {
		at := d.ring(q)
		if err := d.m.mem.WriteAt(make([]byte, 0x2000), at); err != nil {
			return err
		}
		set(0x16, 2, uint64(q))
		set(0x18, 2, ringSize)
		for i, p := range []uint64{at, at + 0x100, at + 0x200} {
			set(0x20+8*uint64(i), 4, p)
			set(0x24+8*uint64(i), 4, 0)
		}
		set(0x1c, 2, 1)
	}
	set(0x14, 1, virtio.StatusAcknowledge|virtio.StatusDriver|virtio.StatusFeaturesOK|virtio.StatusDriverOK)
	return nil
}

// buffer is one of a chain: so many bytes to be read (or written) by the device.
type buffer struct {
	n     uint32
	write bool
}

// send makes a chain of q available, the first since start.
func (d *driver) send(q int, chain ...buffer) error {
	at, buf := d.ring(q), d.ring(q)+0x1000
	for i, b := range chain {
		var flags uint64
		if i < len(chain)-1 {
			flags = 1
		}
		if b.write {
			flags |= 2
		}
		if err := d.m.mem.StoreU64(at+16*uint64(i), buf); err != nil {
			return err
		}
		if err := d.m.mem.StoreU64(at+16*uint64(i)+8, uint64(b.n)|flags<<32|uint64(i+1)<<48); err != nil {
			return err
		}
		buf += uint64(b.n)
	}
	if err := d.m.mem.StoreU16(at+0x100+2, 1); err != nil {
		return err
	}
	d.h.MMIOWrite(d.regs+0x3000+4*uint64(q), 2, uint64(q))
	return nil
}

// used waits for the chain.
func (d *driver) used(q int) error {
	return d.until(fmt.Sprintf("chain of queue %d", q), func() bool {
		n, err := d.m.mem.LoadU16(d.ring(q) + 0x200 + 2)
		return err == nil && n == 1
	})
}

func (d *driver) until(what string, cond func() bool) error {
	limit := d.patience
	if limit == 0 {
		limit = 20 * time.Second
	}
	for end := time.Now().Add(limit); !cond(); runtime.Gosched() {
		if time.Now().After(end) {
			return fmt.Errorf("device in slot %d: %s: never came", d.slot, what)
		}
	}
	return nil
}

// useDevices uses every device as a guest's drivers would after a boot.
func useDevices(t testing.TB, m *Machine, h hv.Handler) {
	type use struct {
		q     int
		chain []buffer
	}
	for slot, uses := range map[int][]use{
		slotConsole: {{1, []buffer{{4, false}}}},
		slotDisk:    {{0, []buffer{{16, false}, {512, true}, {1, true}}}},
		slotNIC:     {{0, []buffer{{2048, true}}}, {1, []buffer{{vnet.HeaderSize + 60, false}}}},
		slotRNG:     {{0, []buffer{{64, true}}}},
	} {
		d := &driver{m: m, h: h, slot: slot}
		err := d.start()
		for _, u := range uses {
			if err == nil {
				err = d.send(u.q, u.chain...)
			}
		}
		for _, u := range uses {
			if err == nil {
				err = d.used(u.q)
			}
		}
		if err != nil {
			t.Error(err)
		}
	}
}
