// SPDX-License-Identifier: BSD-2-Clause

package virtio

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skepvm/skep/vmm/guestmem"
	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/pci"
)

// Options are what a device's transport needs of the machine.
type Options struct {
	VM     hv.VM
	Memory *guestmem.Memory
}

// Where things lie in the device's BARs. BAR 0 holds MSI-X alone, BAR 4 the
// virtio structures, each in a page of its own.
const (
	msixBAR, virtioBAR = 0, 4

	commonOffset = 0x0000
	isrOffset    = 0x1000
	deviceOffset = 0x2000
	notifyOffset = 0x3000
	notifyStride = 4
	virtioSize   = 0x4000
	msixPBA      = 0x0800
	msixSize     = 0x1000

	maxQueues = (msixPBA / 16) - 1 // one vector each and one for configuration
)

// settleTime is how long a vCPU that resets a device waits for requests in
// flight. Later than that the reset goes on by itself, and the driver sees its
// end in the status register, as the specification has it.
const settleTime = 100 * time.Millisecond

// PCI is a virtio device on the PCI bus.
type PCI struct {
	dev  Device
	info Info
	fn   *pci.Function
	msix *pci.MSIX
	opt  Options

	configVector atomic.Uint32

	intx sync.Mutex // guards isr
	isr  uint8

	mu         sync.Mutex // guards all below
	changed    chan struct{}
	vqs        []*vqueue
	status     uint8
	deviceSel  uint32
	driverSel  uint32
	features   uint64
	sel        uint16
	generation uint8
	notifyBase uint64 // where the notify registers are mapped, 0 if nowhere
	started    bool
	paused     bool
	halted     bool
	master     bool
	resetting  bool
	news       bool // configuration changed while paused
	access     cfgAccess
}

type vqueue struct {
	q         Queue
	limit     uint16 // largest size
	vector    atomic.Uint32
	enabled   bool
	running   bool // its goroutine exists
	stopping  bool // and has been told to leave
	resetting bool
	bell      uint64 // address of its doorbell, 0 if none
}

// NewPCI puts dev behind the modern PCI transport.
func NewPCI(dev Device, opt Options) (*PCI, error) {
	info := dev.Info()
	d := &PCI{dev: dev, info: info, opt: opt}
	if len(info.Queues) == 0 || len(info.Queues) > maxQueues {
		return nil, fmt.Errorf("virtio %s: %d queues", info.Name, len(info.Queues))
	}
	for i, n := range info.Queues {
		if n == 0 || n > maxQueueSize || n&(n-1) != 0 {
			return nil, fmt.Errorf("virtio %s: queue %d of %d entries", info.Name, i, n)
		}
		v := &vqueue{limit: n}
		v.q.kick.ch = make(chan struct{}, 1)
		v.q.mem, v.q.index = opt.Memory, i
		v.q.irq = func() { d.queueInterrupt(v) }
		d.vqs = append(d.vqs, v)
		d.clearQueue(v)
	}
	d.configVector.Store(noVector)
	if err := d.build(); err != nil {
		return nil, fmt.Errorf("virtio %s: %w", info.Name, err)
	}
	if b, ok := dev.(Binder); ok {
		b.Bind(d)
	}
	return d, nil
}

// clearQueue brings v to its state after a reset. Its goroutine must be gone.
func (d *PCI) clearQueue(v *vqueue) {
	q := &v.q
	q.size, q.desc, q.avail, q.used = v.limit, 0, 0, 0
	q.last, q.shadow, q.usedIdx, q.signaled = 0, 0, 0, 0
	q.fresh, q.quiet = true, false
	q.again = nil
	q.eventIdx, q.indirect = false, false
	q.err.Store(nil)
	v.enabled, v.resetting = false, false
	v.vector.Store(noVector)
	d.setBell(v, 0)
}

// setBell gives v the doorbell at addr, if the hypervisor has any. Without one, and
// with one that only Ring rings, writes arrive at the notify registers.
func (d *PCI) setBell(v *vqueue, addr uint64) {
	if v.bell == addr {
		return
	}
	v.bell = 0
	var bell hv.Doorbell
	if addr != 0 {
		// Any size first: KVM answers such a write without decoding the
		// instruction.
		b, err := d.opt.VM.NewDoorbell(addr, 0)
		if err != nil {
			b, err = d.opt.VM.NewDoorbell(addr, 2)
		}
		if err == nil {
			bell, v.bell = b, addr
		}
	}
	v.q.kick.set(bell)
}

// notifyAddr is the address of v's notify register, or 0.
func (d *PCI) notifyAddr(v *vqueue) uint64 {
	if d.notifyBase == 0 {
		return 0
	}
	return d.notifyBase + uint64(v.q.index)*notifyStride
}

// sync brings goroutines to where the state wants them, and carries out resets
// whose time has come. Called with mu held after every change; it never blocks.
func (d *PCI) sync() {
	want := d.started && !d.paused && !d.halted && !d.resetting && d.master &&
		d.status&(StatusDriverOK|StatusNeedsReset) == StatusDriverOK
	busy := false
	for i, v := range d.vqs {
		w := want && v.enabled && !v.resetting
		switch {
		case v.running:
			if !w && !v.stopping {
				v.stopping = true
				v.q.stop.Store(true)
				v.q.kick.ring()
				d.dev.Unblock(i)
			}
			busy = busy || v.stopping
		case v.resetting:
			d.clearQueue(v)
		case w:
			v.running, v.stopping = true, false
			v.q.stop.Store(false)
			d.setBell(v, d.notifyAddr(v))
			go d.serve(i, v)
		}
	}
	if d.resetting && !busy {
		d.clear()
	}
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
}

// clear is the reset itself; no goroutine is running.
func (d *PCI) clear() {
	for _, v := range d.vqs {
		d.clearQueue(v)
	}
	d.status, d.features, d.deviceSel, d.driverSel, d.sel = 0, 0, 0, 0, 0
	d.resetting, d.news = false, false
	d.configVector.Store(noVector)
	d.setISR(0)
	d.dev.Reset()
}

func (d *PCI) serve(i int, v *vqueue) {
	d.dev.Serve(i, &v.q)
	d.mu.Lock()
	defer d.mu.Unlock()
	v.running = false
	if v.q.Err() != nil && d.status&StatusNeedsReset == 0 && !d.resetting {
		d.status |= StatusNeedsReset
		d.configInterrupt()
	}
	if v.q.Err() == nil && !v.stopping {
		// Serve gave up by itself: as good as broken.
		v.q.Fail(fmt.Errorf("device stopped serving"))
		d.status |= StatusNeedsReset
		d.configInterrupt()
	}
	d.sync()
}

// settle waits until cond holds, at most for limit (0: without limit). Called
// with mu held, which it gives up meanwhile.
func (d *PCI) settle(limit time.Duration, cond func() bool) {
	var timeout <-chan time.Time
	for !cond() {
		if limit != 0 && timeout == nil {
			t := time.NewTimer(limit)
			defer t.Stop()
			timeout = t.C
		}
		if d.changed == nil {
			d.changed = make(chan struct{})
		}
		ch := d.changed
		d.mu.Unlock()
		select {
		case <-ch:
			d.mu.Lock()
		case <-timeout:
			d.mu.Lock()
			return
		}
	}
}

func (d *PCI) idle() bool {
	for _, v := range d.vqs {
		if v.running {
			return false
		}
	}
	return true
}

// The methods of pci.Device.

// Function is the device's configuration space.
func (d *PCI) Function() *pci.Function { return d.fn }

// Start lets the device run once its driver is ready.
func (d *PCI) Start() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.started = true
	d.sync()
	return nil
}

// Pause returns when every request in flight is done and no goroutine is left.
func (d *PCI) Pause() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paused = true
	d.sync()
	d.settle(0, d.idle)
	return nil
}

// Resume goes on after Pause.
func (d *PCI) Resume() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paused = false
	if d.news {
		d.news = false
		d.configInterrupt()
	}
	d.sync()
	return nil
}

// Reset brings the device to power-on.
func (d *PCI) Reset() {
	d.mu.Lock()
	d.resetting = true
	d.sync()
	d.settle(0, func() bool { return !d.resetting })
	d.mu.Unlock()
	d.fn.Reset()
}

// Halt ends the device's work for good.
func (d *PCI) Halt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.halted {
		return
	}
	d.halted = true
	d.sync()
	d.settle(0, d.idle)
	for _, v := range d.vqs {
		d.setBell(v, 0)
	}
	if h, ok := d.dev.(Halter); ok {
		h.Halt()
	}
}

// Close closes the device and its backend.
func (d *PCI) Close() error {
	d.Halt()
	err := errors.Join(d.dev.Close(), d.fn.Close())
	if err != nil {
		return fmt.Errorf("close virtio %s: %w", d.info.Name, err)
	}
	return nil
}

// ConfigChanged implements Transport.
func (d *PCI) ConfigChanged() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.generation++
	switch {
	case d.status&StatusDriverOK == 0 || d.halted:
	case d.paused:
		d.news = true
	default:
		d.configInterrupt()
	}
}

// Interrupts.

func (d *PCI) queueInterrupt(v *vqueue) {
	if !d.msix.Signal(int(v.vector.Load())) {
		d.setISR(1)
	}
}

func (d *PCI) configInterrupt() {
	if !d.msix.Signal(int(d.configVector.Load())) {
		d.setISR(2)
	}
}

// setISR adds bits to the interrupt status, or clears it with 0, and drives the
// line.
func (d *PCI) setISR(bits uint8) (old uint8) {
	d.intx.Lock()
	defer d.intx.Unlock()
	old = d.isr
	if d.isr |= bits; bits == 0 {
		d.isr = 0
	}
	d.fn.SetINTx(d.isr != 0)
	return old
}
