// SPDX-License-Identifier: BSD-2-Clause

package kvm

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm/hv"
)

// VM is a machine of KVM's.
type VM struct {
	fd    int
	vcpus []*VCPU
	maps  []mapping
	ram   [][]byte

	irq  routes
	rest powerOn

	closeOnce sync.Once
	closeErr  error
}

var (
	_ hv.VM           = (*VM)(nil)
	_ hv.MemoryZeroer = (*VM)(nil)
)

// NewVM makes a machine with its interrupt controllers, timer and vCPUs.
func (b *Backend) NewVM(cfg hv.Config) (_ hv.VM, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("kvm: new machine: %w", explain(err))
		}
	}()
	limit := b.cap(capMaxVCPUs)
	if limit == 0 {
		limit = b.cap(capNrVCPUs)
	}
	if cfg.VCPUs < 1 || cfg.VCPUs > min(limit, hv.MaxVCPUs) {
		return nil, fmt.Errorf("%d vCPUs: %w: this host allows 1..%d", cfg.VCPUs, hv.ErrLimit, min(limit, hv.MaxVCPUs))
	}
	fd, err := ioctl(b.fd, kvmCreateVM, 0)
	if err != nil {
		return nil, fmt.Errorf("create machine: %w", err)
	}
	unix.CloseOnExec(fd)
	vm := &VM{fd: fd}
	defer func() {
		if err != nil {
			vm.Close()
		}
	}()
	addr := uint64(identityMapAddr)
	if _, err := ioctlPtr(fd, kvmSetIdentityMapAddr, &addr); err != nil {
		return nil, fmt.Errorf("set identity map: %w", err)
	}
	if _, err := ioctl(fd, kvmSetTSSAddr, tssAddr); err != nil {
		return nil, fmt.Errorf("set TSS: %w", err)
	}
	if _, err := ioctl(fd, kvmCreateIRQChip, 0); err != nil {
		return nil, fmt.Errorf("create interrupt controllers: %w", err)
	}
	if _, err := ioctlPtr(fd, kvmCreatePIT2, &pitConfig{Flags: pitSpeakerDummy}); err != nil {
		return nil, fmt.Errorf("create timer: %w", err)
	}
	vm.irq.fd, vm.irq.max = fd, min(b.cap(capIRQRouting), maxRoutes)
	if err := vm.irq.begin(); err != nil {
		return nil, err
	}
	for id := range cfg.VCPUs {
		v, err := vm.newVCPU(b, id, cfg)
		if err != nil {
			return nil, fmt.Errorf("vCPU %d: %w", id, err)
		}
		vm.vcpus = append(vm.vcpus, v)
	}
	if err := vm.rest.take(vm, b.msrList); err != nil {
		return nil, err
	}
	return vm, nil
}

// explain adds to an errno what it means for the machine.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("%w: %w", hv.ErrNoMemory, err)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return fmt.Errorf("%w: descriptors: %w", hv.ErrLimit, err)
	}
	return err
}

// MapMemory gives the machine its memory, each region as one slot.
func (vm *VM) MapMemory(regions []hv.Region) (maps [][]byte, err error) {
	if len(vm.maps) > 0 {
		return nil, errors.New("kvm: memory is mapped already")
	}
	for i, r := range regions {
		if r.Size == 0 || r.Base%4096 != 0 || r.Size%4096 != 0 || r.Base+r.Size < r.Base || r.Size > 1<<46 {
			return nil, fmt.Errorf("kvm: map memory %#x+%#x: bad range", r.Base, r.Size)
		}
		p, n, b, err := mapAnonymous(r.Size)
		if err != nil {
			return nil, fmt.Errorf("kvm: allocate guest memory %#x+%#x: %w", r.Base, r.Size, explain(err))
		}
		vm.maps = append(vm.maps, mapping{p, n})
		// Both are hints: a kernel without large pages or core dumps is as good.
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
		_ = unix.Madvise(b, unix.MADV_DONTDUMP)
		slot := &userMemoryRegion{Slot: uint32(i), GuestPhysAddr: r.Base, MemorySize: r.Size, UserspaceAddr: addressOf(b)}
		if r.Kind == hv.ROM {
			slot.Flags = memReadonly
		} else {
			vm.ram = append(vm.ram, b)
		}
		if _, err := ioctlPtr(vm.fd, kvmSetUserMemoryRegion, slot); err != nil {
			return nil, fmt.Errorf("kvm: map guest memory %#x+%#x: %w", r.Base, r.Size, explain(err))
		}
		maps = append(maps, b)
	}
	return maps, nil
}

// ZeroMemory gives all RAM back to the host; it reads as zeroes afterwards.
func (vm *VM) ZeroMemory() error {
	for _, b := range vm.ram {
		if err := unix.Madvise(b, unix.MADV_DONTNEED); err != nil {
			return fmt.Errorf("kvm: clear guest memory: %w", err)
		}
	}
	return nil
}

// VCPU returns a vCPU.
func (vm *VM) VCPU(id int) hv.VCPU { return vm.vcpus[id] }

// Reset puts back the state that the machine had when it was made.
func (vm *VM) Reset() error { return vm.rest.put(vm) }

// Pause does nothing: KVM's clocks go on by themselves.
func (vm *VM) Pause() error { return nil }

// Resume tells the guest's kvmclock that it was stopped, so that its watchdogs
// do not take the pause for a lockup.
func (vm *VM) Resume() error {
	for _, v := range vm.vcpus {
		// EINVAL: the guest does not use kvmclock (yet).
		if _, err := ioctl(v.fd, kvmKVMClockCtrl, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTTY) {
			return fmt.Errorf("kvm: vCPU %d: tell the clock: %w", v.id, err)
		}
	}
	return nil
}

// Close takes the machine out of the kernel and frees its memory.
func (vm *VM) Close() error {
	vm.closeOnce.Do(func() {
		var errs []error
		for _, v := range vm.vcpus {
			errs = append(errs, v.close())
		}
		errs = append(errs, unix.Close(vm.fd))
		for _, m := range vm.maps {
			errs = append(errs, unmapAnonymous(m.p, m.length))
		}
		vm.closeErr = errors.Join(errs...)
	})
	return vm.closeErr
}
