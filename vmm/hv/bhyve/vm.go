// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
)

// VM is hv.VM on bhyve.
type VM struct {
	host  host
	dev   machine
	name  string // the kernel's
	cfg   hv.Config
	vcpus []*vcpu

	segments14 bool   // the kernel has FreeBSD 14's memory segments
	hpet       uint32 // see HPET

	mu     sync.Mutex
	mem    []mapping // in the order of the regions
	mapped bool
	closed bool
	bound  bool     // see Confine
	lines  [24]bool // what SetIRQ was last told

	// watch runs unstick a moment after a Kick.
	watch *time.Timer
	helps sync.WaitGroup // unstick's goroutines
}

var (
	_ hv.VM     = (*VM)(nil)
	_ hv.HPETer = (*VM)(nil)
)

func newVM(h host, dev machine, name string, cfg hv.Config) *VM {
	vm := &VM{host: h, dev: dev, name: name, cfg: cfg}
	for i := range cfg.VCPUs {
		vm.vcpus = append(vm.vcpus, newVCPU(vm, i))
	}
	vm.watch = time.AfterFunc(time.Hour, vm.unstick)
	vm.watch.Stop()
	return vm
}

// setUp brings a fresh machine to its power-on state.
func (vm *VM) setUp() error {
	if err := vm.probeSegments(); err != nil {
		return err
	}
	t := abi.Topology{Sockets: uint16(vm.cfg.Topology.Sockets), Cores: uint16(vm.cfg.Topology.Cores), Threads: uint16(vm.cfg.Topology.Threads)}
	if err := call(vm.dev, abi.VM_SET_TOPOLOGY, &t); err != nil {
		return fmt.Errorf("set topology %+v: %w", vm.cfg.Topology, err)
	}
	if err := vm.powerOn(); err != nil {
		return err
	}
	var hpet abi.HPETCap
	if err := call(vm.dev, abi.VM_GET_HPET_CAPABILITIES, &hpet); err != nil {
		return fmt.Errorf("ask for the capabilities of the HPET: %w", err)
	}
	vm.hpet = hpet.Capabilities
	now := abi.RTCTime{Secs: time.Now().Unix()}
	if err := call(vm.dev, abi.VM_RTC_SETTIME, &now); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// powerOn is what both a fresh and a reset machine need: capabilities, reset
// state, the boot vCPU active. Application processors are activated when the
// guest starts them; until then the kernel must not wait for them.
func (vm *VM) powerOn() error {
	for _, v := range vm.vcpus {
		if err := v.powerOn(); err != nil {
			return fmt.Errorf("vCPU %d: %w", v.id, err)
		}
	}
	if err := vm.vcpus[0].activate(); err != nil {
		return err
	}
	sci := abi.IsaTrigger{AtpicIrq: sciLine, Trigger: 1}
	if err := call(vm.dev, abi.VM_ISA_SET_IRQ_TRIGGER, &sci); err != nil {
		return fmt.Errorf("make interrupt line %d level-triggered: %w", sciLine, err)
	}
	return vm.describeMemory()
}

// VCPU returns vCPU number id.
func (vm *VM) VCPU(id int) hv.VCPU { return vm.vcpus[id] }

// HPET returns the low half of the timer's capabilities.
func (vm *VM) HPET() uint32 { return vm.hpet }

// Pause does nothing: the kernel has no clocks to hold. See the package comment.
func (vm *VM) Pause() error { return nil }

// Resume does nothing.
func (vm *VM) Resume() error { return nil }

// Reset reinitializes the machine in place. The kernel wants every active vCPU
// to have seen a suspension first.
func (vm *VM) Reset() error {
	if err := vm.suspend(); err != nil {
		return fmt.Errorf("bhyve: reset machine %q: %w", vm.cfg.Name, err)
	}
	if err := callVoid(vm.dev, abi.VM_REINIT); err != nil {
		return fmt.Errorf("bhyve: reset machine %q: reinitialize: %w", vm.cfg.Name, explain(err))
	}
	for _, v := range vm.vcpus {
		v.forget()
	}
	vm.mu.Lock()
	vm.lines = [24]bool{}
	vm.mu.Unlock()
	// The kernel drops the maps of named segments.
	if err := vm.mapSegments(true); err != nil {
		return fmt.Errorf("bhyve: reset machine %q: %w", vm.cfg.Name, err)
	}
	if err := vm.powerOn(); err != nil {
		return fmt.Errorf("bhyve: reset machine %q: %w", vm.cfg.Name, err)
	}
	return nil
}

// suspend suspends the machine and lets every active vCPU see it. Each waits in
// the kernel for all the others, so they go together.
func (vm *VM) suspend() error {
	how := abi.Suspend{How: abi.VM_SUSPEND_RESET}
	if err := call(vm.dev, abi.VM_SUSPEND, &how); err != nil && !errors.Is(err, syscall.EALREADY) {
		return fmt.Errorf("suspend: %w", explain(err))
	}
	errs := make([]error, len(vm.vcpus))
	var wg sync.WaitGroup
	for i, v := range vm.vcpus {
		if !v.active.Load() {
			continue
		}
		wg.Go(func() {
			v.run.Lock()
			defer v.run.Unlock()
			errs[i] = v.awaitSuspended()
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// unstick runs a moment after a Kick. A vCPU that has met a suspension (a triple
// fault) waits in the kernel until all the others have; one that was kicked out
// just before it rests in this process and never will. So the resting ones are
// shown the kernel once more, with their debug flag set: they come back at once
// without running the guest, or join the suspension.
func (vm *VM) unstick() {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.closed {
		return
	}
	var resting []*vcpu
	stuck := false
	for _, v := range vm.vcpus {
		if !v.active.Load() {
			continue
		}
		if v.run.TryLock() {
			resting = append(resting, v)
		} else if v.kicked.Load() {
			stuck = true
		}
	}
	for _, v := range resting {
		if !stuck {
			v.run.Unlock()
			continue
		}
		vm.helps.Go(func() {
			defer v.run.Unlock()
			v.peek()
		})
	}
	if stuck {
		vm.watch.Reset(kickPatience)
	}
}

// Close takes the machine out of the kernel.
func (vm *VM) Close() error {
	vm.mu.Lock()
	if vm.closed {
		vm.mu.Unlock()
		return nil
	}
	vm.closed = true
	mem, bound := vm.mem, vm.bound
	vm.mem = nil
	vm.mu.Unlock()
	vm.watch.Stop()
	vm.helps.Wait()
	var errs []error
	for _, m := range mem {
		errs = append(errs, m.unmap())
	}
	if err := vm.dev.close(); err != nil && !errors.Is(err, syscall.ENXIO) { // gone already
		errs = append(errs, err)
	}
	if !bound {
		if err := vm.host.destroy(vm.name); err != nil && !errors.Is(err, errNoMachine) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("bhyve: close machine %q: %w", vm.cfg.Name, err)
	}
	return nil
}

func (vm *VM) isClosed() bool {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return vm.closed
}
