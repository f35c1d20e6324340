// SPDX-License-Identifier: BSD-2-Clause

package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm/hv"
)

const ioapicPins = 24

// routes is the machine's interrupt routing table: which GSI is which pin or
// which message. It is given to the kernel whole at each change.
type routes struct {
	fd, max int

	mu      sync.Mutex
	pins    []routingEntry
	msi     map[uint32]routingEntry // by GSI; those with a message
	used    map[uint32]bool         // GSIs that are given out
	scratch *routing
}

// begin sets the ISA lines and the I/O APIC's pins. Line 0, the timer's, is pin
// 2 of the I/O APIC, as on a PC and as the MADT says.
func (r *routes) begin() error {
	r.msi, r.used, r.scratch = map[uint32]routingEntry{}, map[uint32]bool{}, new(routing)
	pin := func(gsi, chip, pin uint32) {
		r.pins = append(r.pins, routingEntry{GSI: gsi, Type: routingIRQChip, U: [8]uint32{chip, pin}})
	}
	for i := range uint32(ioapicPins) {
		if i < 16 && i != 2 {
			if i < 8 {
				pin(i, irqchipPICMaster, i)
			} else {
				pin(i, irqchipPICSlave, i-8)
			}
		}
		switch i {
		case 0:
			pin(0, irqchipIOAPIC, 2)
		case 2:
		default:
			pin(i, irqchipIOAPIC, i)
		}
	}
	return r.commit()
}

// commit gives the table to the kernel. Called with mu held or before sharing.
func (r *routes) commit() error {
	t := r.scratch
	n := copy(t.Entries[:], r.pins)
	for _, e := range r.msi {
		t.Entries[n] = e
		n++
	}
	t.Nr = uint32(n)
	if _, err := ioctlPtr(r.fd, kvmSetGSIRouting, t); err != nil {
		return fmt.Errorf("kvm: set interrupt routes: %w", err)
	}
	return nil
}

// SetIRQ drives an interrupt line.
func (vm *VM) SetIRQ(line int, level bool) error {
	if line < 0 || line >= ioapicPins {
		return fmt.Errorf("kvm: interrupt line %d: want 0..%d", line, ioapicPins-1)
	}
	l := irqLevel{IRQ: uint32(line)}
	if level {
		l.Level = 1
	}
	if _, err := ioctlPtr(vm.fd, kvmIRQLine, &l); err != nil {
		return fmt.Errorf("kvm: interrupt line %d: %w", line, err)
	}
	return nil
}

// msiSource is an eventfd whose writes the kernel turns into a message.
type msiSource struct {
	r   *routes
	gsi uint32

	mu     sync.RWMutex
	fd     int // -1 after Close
	routed bool
}

var one = binary.NativeEndian.AppendUint64(nil, 1)

// NewMSI makes a message-signalled interrupt source.
func (vm *VM) NewMSI() (hv.MSI, error) {
	r := &vm.irq
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("kvm: new MSI: eventfd: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	gsi := uint32(ioapicPins)
	for r.used[gsi] {
		gsi++
	}
	if len(r.pins)+len(r.used) >= r.max {
		unix.Close(fd)
		return nil, fmt.Errorf("kvm: new MSI: %w: %d interrupt routes", hv.ErrLimit, r.max)
	}
	if _, err := ioctlPtr(r.fd, kvmIRQFD, &irqfd{FD: uint32(fd), GSI: gsi}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("kvm: new MSI: irqfd: %w", err)
	}
	r.used[gsi] = true
	return &msiSource{r: r, gsi: gsi, fd: fd}, nil
}

// Set gives the source its message.
func (s *msiSource) Set(addr uint64, data uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return hv.ErrClosed
	}
	e := routingEntry{GSI: s.gsi, Type: routingMSI, U: [8]uint32{uint32(addr), uint32(addr >> 32), data}}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if old, ok := s.r.msi[s.gsi]; ok && old == e {
		return nil
	}
	s.r.msi[s.gsi] = e
	if err := s.r.commit(); err != nil {
		delete(s.r.msi, s.gsi)
		s.routed = false
		return fmt.Errorf("%w (message %#x to %#x)", err, data, addr)
	}
	s.routed = true
	return nil
}

// Signal sends the message.
func (s *msiSource) Signal() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case s.fd < 0:
		return hv.ErrClosed
	case !s.routed:
		return nil
	}
	// EAGAIN: 2^64-2 signals are waiting to be seen; one more says no more.
	if _, err := unix.Write(s.fd, one); err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("kvm: signal MSI: %w", err)
	}
	return nil
}

// Close frees the source.
func (s *msiSource) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return nil
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	// After the machine's own Close this fails, and then it is not needed.
	_, _ = ioctlPtr(s.r.fd, kvmIRQFD, &irqfd{FD: uint32(s.fd), GSI: s.gsi, Flags: irqfdDeassign})
	delete(s.r.msi, s.gsi)
	delete(s.r.used, s.gsi)
	err := unix.Close(s.fd)
	s.fd = -1
	return err
}

// doorbell is an ioeventfd. Reading it goes through the runtime's poller, so
// that waiting costs no thread.
type doorbell struct {
	vm   *VM
	f    *os.File
	req  ioeventfd
	once sync.Once
	err  error
}

// NewDoorbell makes guest writes to addr wake a goroutine.
func (vm *VM) NewDoorbell(addr uint64, size int) (hv.Doorbell, error) {
	switch size {
	case 0, 1, 2, 4, 8:
	default:
		return nil, fmt.Errorf("kvm: doorbell at %#x: bad size %d", addr, size)
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("kvm: doorbell at %#x: eventfd: %w", addr, err)
	}
	d := &doorbell{vm: vm, req: ioeventfd{Addr: addr, Len: uint32(size), FD: int32(fd)}}
	if _, err := ioctlPtr(vm.fd, kvmIOEventFD, &d.req); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("kvm: doorbell at %#x: ioeventfd: %w", addr, err)
	}
	d.f = os.NewFile(uintptr(fd), "doorbell")
	return d, nil
}

// Wait blocks until the guest has written.
func (d *doorbell) Wait() error {
	var b [8]byte
	if _, err := d.f.Read(b[:]); err != nil {
		if errors.Is(err, os.ErrClosed) {
			return hv.ErrClosed
		}
		return fmt.Errorf("kvm: doorbell: %w", err)
	}
	return nil
}

// Ring wakes Wait. On a closed doorbell it does nothing, and a full counter is
// as good as one more.
func (d *doorbell) Ring() { _, _ = d.f.Write(one) }

// Close ends Wait.
func (d *doorbell) Close() error {
	d.once.Do(func() {
		req := d.req
		req.Flags = ioeventfdDeassign
		_, err := ioctlPtr(d.vm.fd, kvmIOEventFD, &req)
		if errors.Is(err, unix.EBADF) {
			err = nil // the machine is gone, and with it the assignment
		}
		d.err = errors.Join(err, d.f.Close())
	})
	return d.err
}
