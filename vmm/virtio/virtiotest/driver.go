// SPDX-License-Identifier: BSD-2-Clause

package virtiotest

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/virtio"
)

// Patience is how long the driver waits for what the device must do.
const Patience = 10 * time.Second

// Registers of struct virtio_pci_common_cfg.
const (
	DeviceFeatureSelect = 0x00
	DeviceFeature       = 0x04
	DriverFeatureSelect = 0x08
	DriverFeature       = 0x0c
	ConfigVector        = 0x10
	NumQueues           = 0x12
	DeviceStatus        = 0x14
	ConfigGeneration    = 0x15
	QueueSelect         = 0x16
	QueueSize           = 0x18
	QueueVector         = 0x1a
	QueueEnable         = 0x1c
	QueueNotifyOff      = 0x1e
	QueueDesc           = 0x20
	QueueDriver         = 0x28
	QueueDevice         = 0x30
	QueueReset          = 0x3a
)

// Driver drives one virtio device.
type Driver struct {
	M    *Machine
	Dev  *virtio.PCI
	Slot int

	Common, ISR, Device uint64 // addresses of the structures
	DeviceLen           uint64
	notify, stride      uint64
	table               uint64 // MSI-X
	msixCap             int
	bars                []bar // as found by Attach
	Features            uint64
	Config              *Interrupt // the configuration vector's
	Info                virtio.Info

	// What the driver asked for since Attach: how often it let the device run,
	// and how many entries of available rings it published.
	Starts, Entries atomic.Uint64
}

// bar is a window of the device's.
type bar struct{ base, size uint64 }

// sizeBARs asks for the sizes as firmware does.
func (d *Driver) sizeBARs() (bars []bar) {
	m := d.M
	for n := 0; n < 6; n++ {
		at := 0x10 + 4*n
		lo := m.Config(d.Slot, at, 4)
		if lo == 0 {
			continue
		}
		b := bar{base: uint64(lo &^ 15)}
		m.SetConfig(d.Slot, at, 4, ^uint32(0))
		b.size = uint64(^(m.Config(d.Slot, at, 4) &^ 15) + 1)
		m.SetConfig(d.Slot, at, 4, lo)
		if lo&6 == 4 { // 64 bits
			n++
			b.base |= uint64(m.Config(d.Slot, at+4, 4)) << 32
		}
		bars = append(bars, b)
	}
	return bars
}

// Attach puts dev behind the PCI transport into m, starts it, and finds it as a
// driver would. The device is closed when the test ends.
func Attach(m *Machine, dev virtio.Device) *Driver {
	m.TB.Helper()
	p, err := virtio.NewPCI(dev, virtio.Options{VM: m.VM, Memory: m.Mem})
	if err != nil {
		m.TB.Fatal(err)
	}
	slot := m.PCI.FreeSlot()
	if err := m.PCI.Attach(slot, 0, p); err != nil {
		m.TB.Fatal(err)
	}
	if err := m.PCI.AssignBARs(); err != nil {
		m.TB.Fatal(err)
	}
	if err := p.Start(); err != nil {
		m.TB.Fatal(err)
	}
	m.TB.Cleanup(func() {
		if err := p.Close(); err != nil {
			m.TB.Error(err)
		}
	})
	d := &Driver{M: m, Dev: p, Slot: slot, Info: dev.Info()}
	d.Discover()
	d.bars = d.sizeBARs()
	return d
}

// Discover reads the capabilities and BARs anew.
func (d *Driver) Discover() {
	d.M.TB.Helper()
	if !d.find() {
		d.M.TB.Fatalf("capabilities are missing: %v", d)
	}
}

// find is Discover for a device whose BARs may lie at 0.
func (d *Driver) find() bool {
	m := d.M
	bar := func(n int) uint64 {
		lo := m.Config(d.Slot, 0x10+4*n, 4)
		base := uint64(lo &^ 15)
		if lo&6 == 4 {
			base |= uint64(m.Config(d.Slot, 0x14+4*n, 4)) << 32
		}
		return base
	}
	n := 0
	for off := int(m.Config(d.Slot, 0x34, 1)); off != 0; off = int(m.Config(d.Slot, off+1, 1)) {
		if n++; n > 48 {
			return false // a loop
		}
		switch m.Config(d.Slot, off, 1) {
		case 0x11:
			d.msixCap = off
			t := m.Config(d.Slot, off+4, 4)
			d.table = bar(int(t&7)) + uint64(t&^7)
		case 0x09:
			at := bar(int(m.Config(d.Slot, off+4, 1))) + uint64(m.Config(d.Slot, off+8, 4))
			switch m.Config(d.Slot, off+3, 1) {
			case 1:
				d.Common = at
			case 2:
				d.notify, d.stride = at, uint64(m.Config(d.Slot, off+16, 4))
			case 3:
				d.ISR = at
			case 4:
				d.Device, d.DeviceLen = at, uint64(m.Config(d.Slot, off+12, 4))
			}
		}
	}
	return d.Common >= 1<<31 && d.notify != 0 && d.ISR != 0 && d.Device != 0 && d.msixCap != 0
}

// Get and Set reach a register of the common structure by its own width.
func (d *Driver) Get(reg uint64) uint64 { return d.M.Load(d.Common+reg, width(reg)) }

// Set writes it.
func (d *Driver) Set(reg, v uint64) {
	if width(reg) == 8 {
		d.M.Store(d.Common+reg, 4, v&0xffffffff)
		d.M.Store(d.Common+reg+4, 4, v>>32)
		return
	}
	d.M.Store(d.Common+reg, width(reg), v)
}

func width(reg uint64) int {
	switch reg {
	case DeviceStatus, ConfigGeneration:
		return 1
	case DeviceFeatureSelect, DeviceFeature, DriverFeatureSelect, DriverFeature:
		return 4
	case QueueDesc, QueueDriver, QueueDevice:
		return 8
	}
	return 2
}

// Offered reads the device's feature bits.
func (d *Driver) Offered() uint64 {
	d.Set(DeviceFeatureSelect, 0)
	f := d.Get(DeviceFeature)
	d.Set(DeviceFeatureSelect, 1)
	return f | d.Get(DeviceFeature)<<32
}

// Reset resets the device and waits until it is.
func (d *Driver) Reset() {
	d.M.TB.Helper()
	d.Set(DeviceStatus, 0)
	d.Eventually("reset", func() bool { return d.Get(DeviceStatus) == 0 })
}

// Negotiate begins as a driver does, up to FEATURES_OK, with those bits of want
// that are offered, bus mastering and MSI-X on. It answers whether the device
// took them.
func (d *Driver) Negotiate(want uint64) bool {
	d.M.TB.Helper()
	d.M.SetConfig(d.Slot, 4, 2, 6)
	d.Reset()
	d.Set(DeviceStatus, virtio.StatusAcknowledge)
	d.Set(DeviceStatus, virtio.StatusAcknowledge|virtio.StatusDriver)
	d.Features = d.Offered() & (want | virtio.FeatureVersion1)
	d.SetFeatures(d.Features)
	d.Set(DeviceStatus, virtio.StatusAcknowledge|virtio.StatusDriver|virtio.StatusFeaturesOK)
	d.M.SetConfig(d.Slot, d.msixCap+2, 2, 1<<15)
	d.Config = d.vector(0)
	d.Set(ConfigVector, 0)
	return d.Get(DeviceStatus)&virtio.StatusFeaturesOK != 0
}

// SetFeatures writes the driver's feature bits.
func (d *Driver) SetFeatures(f uint64) {
	d.Set(DriverFeatureSelect, 0)
	d.Set(DriverFeature, f&0xffffffff)
	d.Set(DriverFeatureSelect, 1)
	d.Set(DriverFeature, f>>32)
}

// vector unmasks MSI-X vector n with a message of its own.
func (d *Driver) vector(n int) *Interrupt {
	at, data := d.table+16*uint64(n), uint32(d.Slot<<16|n)
	d.M.Store(at, 4, 0xfee00000)
	d.M.Store(at+4, 4, 0)
	d.M.Store(at+8, 4, uint64(data))
	d.M.Store(at+12, 4, 0)
	return d.M.VM.Interrupt(data)
}

// DriverOK lets the device run.
func (d *Driver) DriverOK() {
	d.Starts.Add(1)
	d.Set(DeviceStatus, d.Get(DeviceStatus)|virtio.StatusDriverOK)
}

// Start negotiates want, sets up every queue with size descriptors (0: as many
// as the device has) and lets the device run.
func (d *Driver) Start(want uint64, size int) []*VirtQueue {
	d.M.TB.Helper()
	if !d.Negotiate(want) {
		d.M.TB.Fatalf("device refused features %#x", d.Features)
	}
	var qs []*VirtQueue
	for i := range int(d.Get(NumQueues)) {
		q := d.NewQueue(i, size)
		q.Enable()
		qs = append(qs, q)
	}
	d.DriverOK()
	return qs
}

// ReadConfig reads n bytes of device-specific configuration, byte by byte.
func (d *Driver) ReadConfig(off, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(d.M.Load(d.Device+uint64(off+i), 1))
	}
	return p
}

// Config32 and Config64 read little-endian values of the device's configuration.
func (d *Driver) Config32(off int) uint32 { return binary.LittleEndian.Uint32(d.ReadConfig(off, 4)) }

// Config64 reads 8 bytes.
func (d *Driver) Config64(off int) uint64 { return binary.LittleEndian.Uint64(d.ReadConfig(off, 8)) }

// NeedsReset waits until the device asks for a reset.
func (d *Driver) NeedsReset() {
	d.M.TB.Helper()
	d.Eventually("DEVICE_NEEDS_RESET", func() bool { return d.Get(DeviceStatus)&virtio.StatusNeedsReset != 0 })
}

// Eventually waits until cond holds, and fails the test if it never does.
func (d *Driver) Eventually(what string, cond func() bool) {
	d.M.TB.Helper()
	Eventually(d.M.TB, what, cond)
}

// Eventually waits until cond holds, and fails the test if it never does.
func Eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	for end := time.Now().Add(Patience); !cond(); time.Sleep(50 * time.Microsecond) {
		if time.Now().After(end) {
			tb.Fatalf("never came: %s", what)
		}
	}
}

func (d *Driver) String() string { return fmt.Sprintf("driver of slot %d", d.Slot) }
