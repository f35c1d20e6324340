// SPDX-License-Identifier: BSD-2-Clause

package vmm

import (
	"fmt"

	"github.com/skepvm/skep/vmm/block"
	"github.com/skepvm/skep/vmm/pci"
	"github.com/skepvm/skep/vmm/virtio"
	"github.com/skepvm/skep/vmm/virtio/blk"
	"github.com/skepvm/skep/vmm/virtio/console"
	vnet "github.com/skepvm/skep/vmm/virtio/net"
	"github.com/skepvm/skep/vmm/virtio/rng"
)

// addVirtio makes the virtio devices and puts each into a slot of its own:
// console, disks, NICs, random source.
func (m *Machine) addVirtio(host *pci.Host) error {
	if m.cfg.Console != nil {
		c := console.New(m.cfg.Console)
		if err := m.attach(host, c); err != nil {
			return fmt.Errorf("console: %w", err)
		}
		m.parts.consoleIn = input{m, "console input", c}
	}
	for i, d := range m.cfg.Disks {
		if err := m.addDisk(host, d); err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
	}
	for i, n := range m.cfg.NICs {
		if err := m.addNIC(host, n); err != nil {
			return fmt.Errorf("NIC %d: %w", i, err)
		}
	}
	if !m.cfg.NoRNG {
		if err := m.attach(host, rng.New(nil)); err != nil {
			return fmt.Errorf("random source: %w", err)
		}
	}
	return nil
}

func (m *Machine) addDisk(host *pci.Host, d Disk) error {
	b := d.Backend
	if b == nil {
		var err error
		if b, err = block.NewFile(d.File, d.ReadOnly); err != nil {
			return err
		}
	}
	dev, err := blk.New(blk.Config{Backend: b, Serial: d.Serial, Queues: d.Queues, NoDiscard: d.NoDiscard})
	if err != nil {
		return err
	}
	m.disks = append(m.disks, dev)
	return m.attach(host, dev)
}

func (m *Machine) addNIC(host *pci.Host, n NIC) error {
	b := n.Backend
	if b == nil {
		var err error
		if b, err = vnet.NewTap(n.Tap); err != nil {
			return err
		}
	}
	dev, err := vnet.New(vnet.Config{Backend: b, MAC: n.MAC, MTU: uint16(n.MTU), NoOffload: n.NoOffload})
	if err != nil {
		return err
	}
	m.nics = append(m.nics, dev)
	return m.attach(host, dev)
}

// attach puts a virtio device into the next free slot. It belongs to the machine
// from then on, attached or not.
func (m *Machine) attach(host *pci.Host, dev virtio.Device) error {
	d, err := virtio.NewPCI(dev, virtio.Options{VM: m.vm, Memory: m.mem})
	if err != nil {
		_ = dev.Close()
		return err
	}
	m.devices = append(m.devices, d)
	slot := host.FreeSlot()
	if slot < 0 {
		return fmt.Errorf("all PCI slots are taken")
	}
	return host.Attach(slot, 0, d)
}
