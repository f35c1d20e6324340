// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"errors"
	"fmt"
	"sync"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
)

// sciLine is ACPI's interrupt, level-triggered by convention.
const sciLine = 9

// SetIRQ drives an interrupt line. The kernel counts assertions, so only changes
// are told to it.
func (vm *VM) SetIRQ(line int, level bool) error {
	if err := vm.setIRQ(line, level); err != nil {
		return fmt.Errorf("bhyve: machine %q: set interrupt line %d to %v: %w", vm.cfg.Name, line, level, err)
	}
	return nil
}

func (vm *VM) setIRQ(line int, level bool) error {
	if line < 0 || line >= len(vm.lines) || line == 2 {
		return errors.New("want 0..23 without 2, the cascade")
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.closed {
		return hv.ErrClosed
	}
	if vm.lines[line] == level {
		return nil
	}
	var err error
	if line < 16 {
		irq := abi.IsaIRQ{AtpicIrq: int32(line), IoapicIrq: int32(line)}
		if line == 0 {
			irq.IoapicIrq = 2 // as every PC has it, and its MADT says
		}
		req := uint32(abi.VM_ISA_DEASSERT_IRQ)
		if level {
			req = abi.VM_ISA_ASSERT_IRQ
		}
		err = call(vm.dev, req, &irq)
	} else {
		req := uint32(abi.VM_IOAPIC_DEASSERT_IRQ)
		if level {
			req = abi.VM_IOAPIC_ASSERT_IRQ
		}
		err = call(vm.dev, req, &abi.IoapicIRQ{Irq: int32(line)})
	}
	if err != nil {
		return explain(err)
	}
	vm.lines[line] = level
	return nil
}

// NewDoorbell makes a doorbell that only Ring rings: the kernel has none, every
// write is an exit to the Handler.
func (vm *VM) NewDoorbell(addr uint64, size int) (hv.Doorbell, error) {
	if vm.isClosed() {
		return nil, fmt.Errorf("bhyve: machine %q: new doorbell: %w", vm.cfg.Name, hv.ErrClosed)
	}
	d, err := newDoorbell()
	if err != nil {
		return nil, fmt.Errorf("bhyve: machine %q: new doorbell: %w", vm.cfg.Name, err)
	}
	return d, nil
}

// NewMSI makes an interrupt source.
func (vm *VM) NewMSI() (hv.MSI, error) {
	if vm.isClosed() {
		return nil, fmt.Errorf("bhyve: machine %q: new MSI: %w", vm.cfg.Name, hv.ErrClosed)
	}
	return &msi{vm: vm}, nil
}

// Bits of a message's address.
const (
	msiLogical = 1 << 2 // destination mode
	msiHint    = 1 << 3 // redirection hint
)

// msi keeps its message in the structure that the kernel wants.
type msi struct {
	vm *VM

	mu  sync.Mutex
	set bool
	arg abi.LapicMSI
}

func (m *msi) Set(addr uint64, data uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	// The kernel takes the destination as a logical one only if the redirection
	// hint is set, too. Linux in flat mode sets the destination mode alone, and
	// on a processor the hint makes no difference to who may get a fixed
	// interrupt (Intel SDM vol. 3, 11.11.1).
	if addr&msiLogical != 0 {
		addr |= msiHint
	}
	m.arg = abi.LapicMSI{Msg: uint64(data), Addr: addr}
	m.set = true
	return nil
}

func (m *msi) Signal() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.set {
		return nil
	}
	// The guest writes the message: what the kernel refuses of it (an address
	// outside the local APICs' window) is the guest's loss, as on a real bus.
	if m.arg.Addr>>20 != 0xfee {
		return nil
	}
	if err := call(m.vm.dev, abi.VM_LAPIC_MSI, &m.arg); err != nil {
		return fmt.Errorf("bhyve: machine %q: signal MSI %#x to %#x: %w", m.vm.cfg.Name, m.arg.Msg, m.arg.Addr, explain(err))
	}
	return nil
}

func (m *msi) Close() error {
	m.mu.Lock()
	m.set = false
	m.mu.Unlock()
	return nil
}
