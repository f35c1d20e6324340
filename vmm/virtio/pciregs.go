// SPDX-License-Identifier: BSD-2-Clause

package virtio

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/skepvm/skep/vmm/bus"
	"github.com/skepvm/skep/vmm/pci"
)

// Capability types of VIRTIO 1.2, section 4.1.4.
const (
	capCommon = 1
	capNotify = 2
	capISR    = 3
	capDevice = 4
	capPCI    = 5
)

// build makes the PCI function: identity, BARs, capabilities.
func (d *PCI) build() error {
	f := pci.NewFunction(pci.ID{
		Vendor: 0x1af4, Device: 0x1040 + d.info.Type, Class: d.info.Class, Revision: 1,
		SubsystemVendor: 0x1af4, Subsystem: 0x1100,
	})
	f.SetName("virtio " + d.info.Name)
	f.SetPin(1)
	d.fn = f
	msix, err := f.AddMSIX(len(d.vqs)+1, msixBAR, 0, msixPBA)
	if err != nil {
		return err
	}
	d.msix = msix

	var table, regs pci.Space
	for _, m := range []struct {
		s      *pci.Space
		off, n uint64
		dev    bus.Device
	}{
		{&table, 0, msix.TableSize(), msix.Table()},
		{&table, msixPBA, msix.PBASize(), msix.PBA()},
		{&regs, commonOffset, commonSize, d.common()},
		{&regs, isrOffset, 1, isrReg{d}},
		{&regs, deviceOffset, maxDeviceConfigBytes, deviceRegs{d}},
		{&regs, notifyOffset, uint64(len(d.vqs)) * notifyStride, notifyRegs{d}},
	} {
		if err := m.s.Bus.Map(m.off, m.n, m.dev); err != nil {
			return err
		}
	}
	if err := f.AddBAR(msixBAR, pci.BAR{Kind: pci.Mem32, Size: msixSize, Dev: &table}); err != nil {
		return err
	}
	if err := f.AddBAR(virtioBAR, pci.BAR{Kind: pci.Mem64, Prefetch: true, Size: virtioSize, Dev: &regs, Moved: d.moved}); err != nil {
		return err
	}
	f.OnCommand(func(c uint16) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.master = c&pci.CommandBusMaster != 0
		d.sync()
		if !d.master {
			d.settle(settleTime, d.idle)
		}
	})
	for _, c := range []struct {
		kind   byte
		off, n uint32
		extra  []byte
	}{
		{capCommon, commonOffset, commonSize, nil},
		{capISR, isrOffset, 1, nil},
		{capDevice, deviceOffset, maxDeviceConfigBytes, nil},
		{capNotify, notifyOffset, uint32(len(d.vqs)) * notifyStride, []byte{notifyStride, 0, 0, 0}},
	} {
		if _, err := f.AddCapability(0x09, capBody(c.kind, virtioBAR, c.off, c.n, c.extra), nil); err != nil {
			return err
		}
	}
	// The last one is a window through configuration space into a BAR, for
	// software that cannot reach the BAR itself.
	body := capBody(capPCI, 0, 0, 0, make([]byte, 4))
	mask := make([]byte, len(body))
	for i := 2; i < len(mask); i++ {
		mask[i] = 0xff // bar, id, padding, offset, length, data
	}
	off, err := f.AddCapability(0x09, body, mask)
	if err != nil {
		return err
	}
	d.access = cfgAccess{d: d, cap: off, spaces: map[uint8]*pci.Space{msixBAR: &table, virtioBAR: &regs}}
	f.Hook(off+16, 4, d.access.read, d.access.write)
	return nil
}

// capBody is struct virtio_pci_cap behind its first two bytes.
func capBody(kind, bar byte, off, n uint32, extra []byte) []byte {
	b := []byte{byte(16 + len(extra)), kind, bar, 0, 0, 0}
	b = binary.LittleEndian.AppendUint32(b, off)
	b = binary.LittleEndian.AppendUint32(b, n)
	return append(b, extra...)
}

// cfgAccess is VIRTIO_PCI_CAP_PCI_CFG. Its methods run with the PCI host's lock
// held, as every hook does.
type cfgAccess struct {
	d      *PCI
	cap    int
	spaces map[uint8]*pci.Space
}

func (a *cfgAccess) target() (s *pci.Space, off uint64, size int) {
	f := a.d.fn
	s = a.spaces[uint8(f.Peek(a.cap+4, 1))]
	off, n := uint64(f.Peek(a.cap+8, 4)), f.Peek(a.cap+12, 4)
	if s == nil || n != 1 && n != 2 && n != 4 || off%uint64(n) != 0 {
		return nil, 0, 0
	}
	return s, off, int(n)
}

func (a *cfgAccess) read(int, int) {
	if s, off, n := a.target(); s != nil {
		a.d.fn.Poke(a.cap+16, n, uint32(s.Read(off, n)))
	}
}

func (a *cfgAccess) write(int, int) {
	if s, off, n := a.target(); s != nil {
		s.Write(off, n, uint64(a.d.fn.Peek(a.cap+16, n)))
	}
}

// moved follows the BAR, with the PCI host's lock held.
func (d *PCI) moved(addr uint64, mapped bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notifyBase = 0
	if mapped {
		d.notifyBase = addr + notifyOffset
	}
	for _, v := range d.vqs {
		if v.running {
			d.setBell(v, d.notifyAddr(v))
		} else if v.bell != 0 {
			d.setBell(v, 0)
		}
	}
}

// isrReg is the interrupt status, cleared by reading.
type isrReg struct{ d *PCI }

func (r isrReg) Read(uint64, int) uint64   { return uint64(r.d.setISR(0)) }
func (r isrReg) Write(uint64, int, uint64) {}

// notifyRegs are reached where the hypervisor has no doorbells.
type notifyRegs struct{ d *PCI }

func (r notifyRegs) Read(uint64, int) uint64 { return 0 }

func (r notifyRegs) Write(off uint64, _ int, _ uint64) {
	r.d.vqs[off/notifyStride].q.kick.ring() // the range has one register a queue
}

// deviceRegs is the device-specific configuration.
type deviceRegs struct{ d *PCI }

func (r deviceRegs) Read(off uint64, size int) uint64 {
	var b [8]byte
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	r.d.dev.ReadConfig(int(off), b[:size])
	return le.Uint64(b[:])
}

func (r deviceRegs) Write(off uint64, size int, v uint64) {
	var b [8]byte
	le.PutUint64(b[:], v)
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	if !r.d.resetting {
		r.d.dev.WriteConfig(int(off), b[:size])
	}
}

const commonSize = 0x3c

// common is struct virtio_pci_common_cfg (VIRTIO 1.2, section 4.1.4.3). Every
// register takes the lock; while a reset is going on writes are ignored.
func (d *PCI) common() bus.Device {
	reg := func(off, size int, read func() uint64, write func(v, mask uint64)) bus.Reg {
		r := bus.Reg{Off: off, Size: size}
		r.Read = func() uint64 {
			d.mu.Lock()
			defer d.mu.Unlock()
			return read()
		}
		if write != nil {
			r.Write = func(v, mask uint64) {
				d.mu.Lock()
				defer d.mu.Unlock()
				if !d.resetting {
					write(v, mask)
				}
			}
		}
		return r
	}
	queue := func(off, size int, read func(*vqueue) uint64, write func(q *vqueue, v, mask uint64)) bus.Reg {
		var w func(v, mask uint64)
		if write != nil {
			w = func(v, mask uint64) {
				if int(d.sel) < len(d.vqs) {
					write(d.vqs[d.sel], v, mask)
				}
			}
		}
		return reg(off, size, func() uint64 {
			if int(d.sel) < len(d.vqs) {
				return read(d.vqs[d.sel])
			}
			return 0
		}, w)
	}
	address := func(off int, field func(*Queue) *uint64) bus.Reg {
		return queue(off, 8, func(v *vqueue) uint64 { return *field(&v.q) }, func(v *vqueue, x, mask uint64) {
			if !v.enabled && !v.running {
				p := field(&v.q)
				*p = *p&^mask | x
			}
		})
	}
	return bus.NewRegMap(
		reg(0x00, 4, func() uint64 { return uint64(d.deviceSel) }, func(v, _ uint64) { d.deviceSel = uint32(v) }),
		reg(0x04, 4, func() uint64 { return half(d.offered(), d.deviceSel) }, nil),
		reg(0x08, 4, func() uint64 { return uint64(d.driverSel) }, func(v, _ uint64) { d.driverSel = uint32(v) }),
		reg(0x0c, 4, func() uint64 { return half(d.features, d.driverSel) }, d.setFeatures),
		reg(0x10, 2, func() uint64 { return uint64(d.configVector.Load()) },
			func(v, _ uint64) { d.configVector.Store(d.vectorOf(v)) }),
		reg(0x12, 2, func() uint64 { return uint64(len(d.vqs)) }, nil),
		bus.Reg{Off: 0x14, Size: 1, Read: d.readStatus, Write: func(v, _ uint64) { d.writeStatus(uint8(v)) }},
		reg(0x15, 1, func() uint64 { return uint64(d.generation) }, nil),
		reg(0x16, 2, func() uint64 { return uint64(d.sel) }, func(v, _ uint64) { d.sel = uint16(v) }),
		queue(0x18, 2, func(v *vqueue) uint64 { return uint64(v.q.size) }, func(v *vqueue, x, _ uint64) {
			if !v.enabled && !v.running {
				v.q.size = uint16(x)
			}
		}),
		queue(0x1a, 2, func(v *vqueue) uint64 { return uint64(v.vector.Load()) },
			func(v *vqueue, x, _ uint64) { v.vector.Store(d.vectorOf(x)) }),
		queue(0x1c, 2, func(v *vqueue) uint64 { return bit(v.enabled) }, func(v *vqueue, x, _ uint64) {
			if x == 1 {
				d.enable(v)
			}
		}),
		queue(0x1e, 2, func(v *vqueue) uint64 { return uint64(v.q.index) }, nil),
		address(0x20, func(q *Queue) *uint64 { return &q.desc }),
		address(0x28, func(q *Queue) *uint64 { return &q.avail }),
		address(0x30, func(q *Queue) *uint64 { return &q.used }),
		queue(0x38, 2, func(v *vqueue) uint64 { return uint64(v.q.index) }, nil),
		bus.Reg{Off: 0x3a, Size: 2, Read: d.readQueueReset, Write: func(v, _ uint64) {
			if v == 1 {
				d.resetQueue()
			}
		}},
	)
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// half is the 32 bits of features that sel selects.
func half(features uint64, sel uint32) uint64 {
	if sel > 1 {
		return 0
	}
	return features >> (32 * sel) & math.MaxUint32
}

func (d *PCI) offered() uint64 { return d.dev.Features() | transportFeatures }

func (d *PCI) setFeatures(v, _ uint64) {
	if d.driverSel > 1 || d.status&StatusFeaturesOK != 0 {
		return
	}
	sh := 32 * d.driverSel
	d.features = d.features&^(math.MaxUint32<<sh) | v<<sh
}

// vectorOf answers what the register shall hold: NO_VECTOR for one that does
// not exist tells the driver so.
func (d *PCI) vectorOf(v uint64) uint32 {
	if v > uint64(len(d.vqs)) {
		return noVector
	}
	return uint32(v)
}

func (d *PCI) readStatus() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return uint64(d.status)
}

func (d *PCI) writeStatus(s uint8) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s == 0 {
		d.resetting = true
		d.sync()
		d.settle(settleTime, func() bool { return !d.resetting })
		return
	}
	// Bits are only ever added; NEEDS_RESET is ours.
	added := s &^ d.status &^ StatusNeedsReset
	if d.resetting || added == 0 {
		return
	}
	if added&StatusFeaturesOK != 0 && !d.negotiate() {
		added &^= StatusFeaturesOK
	}
	if added&StatusDriverOK != 0 && (d.status|added)&StatusFeaturesOK == 0 {
		added &^= StatusDriverOK // out of order: the device stays asleep
	}
	d.status |= added
	d.sync()
}

// negotiate checks what the driver accepted and tells the device.
func (d *PCI) negotiate() bool {
	if d.features&^d.offered() != 0 || d.features&FeatureVersion1 == 0 {
		return false
	}
	return d.dev.Negotiated(d.features&^transportFeatures) == nil
}

// enable checks the driver's ring and puts it to work.
func (d *PCI) enable(v *vqueue) {
	if v.enabled || v.running || d.status&StatusFeaturesOK == 0 {
		return
	}
	if err := d.checkRing(&v.q); err != nil {
		v.q.Fail(err)
		d.status |= StatusNeedsReset
		d.configInterrupt()
		return
	}
	q := &v.q
	q.eventIdx = d.features&FeatureRingEventIdx != 0
	q.indirect = d.features&FeatureRingIndirect != 0
	if q.maxSegs = d.info.MaxSegments; q.maxSegs == 0 {
		q.maxSegs = int(q.size)
	}
	v.enabled = true
	d.sync()
}

func (d *PCI) checkRing(q *Queue) error {
	n := uint64(q.size)
	if n == 0 || n > uint64(d.vqs[q.index].limit) || n&(n-1) != 0 {
		return fmt.Errorf("%w: size %d", ErrProtocol, n)
	}
	for _, r := range []struct {
		what           string
		gpa, size, mod uint64
	}{
		{"descriptor table", q.desc, descSize * n, 16},
		{"available ring", q.avail, 6 + 2*n, 2},
		{"used ring", q.used, 6 + 8*n, 4},
	} {
		if r.gpa%r.mod != 0 {
			return fmt.Errorf("%w: %s at %#x is misaligned", ErrProtocol, r.what, r.gpa)
		}
		if _, err := d.opt.Memory.Slice(r.gpa, r.size); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrProtocol, r.what, err)
		}
	}
	return nil
}

func (d *PCI) readQueueReset() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bit(int(d.sel) < len(d.vqs) && d.vqs[d.sel].resetting)
}

// resetQueue is VIRTIO_F_RING_RESET (VIRTIO 1.2, section 2.6.1).
func (d *PCI) resetQueue() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if int(d.sel) >= len(d.vqs) || d.resetting || d.features&FeatureRingReset == 0 || d.status&StatusFeaturesOK == 0 {
		return
	}
	v := d.vqs[d.sel]
	v.resetting = true
	d.sync()
	d.settle(settleTime, func() bool { return !v.resetting })
}
