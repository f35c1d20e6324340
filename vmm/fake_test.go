// SPDX-License-Identifier: BSD-2-Clause

package vmm

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm/boot"
	"github.com/skepvm/skep/vmm/guestmem"
	"github.com/skepvm/skep/vmm/hv"
)

// fakeBackend is a hypervisor whose vCPUs do what a test tells them.
type fakeBackend struct {
	newErr error
	mapped bool // memory comes from the kernel: the race detector has no say there
	vms    []*fakeVM
}

func (*fakeBackend) Name() string { return "fake" }
func (*fakeBackend) Close() error { return errors.New("a caller's backend was closed") }
func (b *fakeBackend) NewVM(c hv.Config) (hv.VM, error) {
	if b.newErr != nil {
		return nil, b.newErr
	}
	vm := &fakeVM{mapped: b.mapped}
	for i := range c.VCPUs {
		vm.cpus = append(vm.cpus, &fakeCPU{vm: vm, id: i, kick: make(chan struct{}, 1), do: make(chan func(hv.Handler) (hv.Exit, error))})
	}
	b.vms = append(b.vms, vm)
	return vm, nil
}

var errFake = errors.New("made to fail")

type fakeVM struct {
	cpus    []*fakeCPU
	inside  atomic.Int32 // vCPUs in Run
	resets  atomic.Int32
	paused  atomic.Bool
	closed  atomic.Int32
	bound   atomic.Int32
	mapErr  error
	mapped  bool
	maps    [][]byte
	wrong   atomic.Pointer[string]
	failing atomic.Pointer[string] // the method that shall fail
}

func (vm *fakeVM) outside(what string) error {
	if vm.inside.Load() != 0 {
		vm.complain(what + " with a vCPU inside Run")
	}
	if f := vm.failing.Load(); f != nil && *f == what {
		return fmt.Errorf("%s: %w", what, errFake)
	}
	return nil
}

func (vm *fakeVM) complain(s string) { vm.wrong.CompareAndSwap(nil, &s) }

// memories are reused: tests make thousands of machines.
var memories = sync.Pool{New: func() any { return make([]byte, MinMemory) }}

func (vm *fakeVM) MapMemory(rs []hv.Region) (out [][]byte, err error) {
	for _, r := range rs {
		if vm.mapped {
			b, err := unix.Mmap(-1, 0, int(r.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				return out, os.NewSyscallError("mmap", err)
			}
			out = append(out, b)
			vm.maps = append(vm.maps, b)
			continue
		}
		b := memories.Get().([]byte)
		if uint64(len(b)) < r.Size {
			b = make([]byte, r.Size)
		}
		b = b[:r.Size]
		out = append(out, b)
		vm.maps = append(vm.maps, b)
	}
	return out, vm.mapErr
}
func (vm *fakeVM) ZeroMemory() error       { return vm.outside("ZeroMemory") }
func (vm *fakeVM) VCPU(id int) hv.VCPU     { return vm.cpus[id] }
func (vm *fakeVM) SetIRQ(int, bool) error  { return nil }
func (vm *fakeVM) NewMSI() (hv.MSI, error) { return fakeMSI{}, nil }
func (vm *fakeVM) Reset() error            { vm.resets.Add(1); return vm.outside("Reset") }
func (vm *fakeVM) NewDoorbell(uint64, int) (hv.Doorbell, error) {
	return nil, fmt.Errorf("doorbell: %w", errors.ErrUnsupported)
}
func (vm *fakeVM) Pause() error {
	if vm.paused.Swap(true) {
		vm.complain("paused twice")
	}
	return vm.outside("Pause")
}
func (vm *fakeVM) Resume() error {
	if !vm.paused.Swap(false) {
		vm.complain("resumed without a pause")
	}
	return vm.outside("Resume")
}
func (vm *fakeVM) Confine() error { vm.bound.Add(1); return vm.outside("Confine") }
func (vm *fakeVM) Close() error {
	if vm.closed.Add(1) == 1 {
		for _, b := range vm.maps {
			if vm.mapped {
				if err := unix.Munmap(b); err != nil {
					vm.complain("munmap: " + err.Error())
				}
				continue
			}
			//lint:ignore SA6002 a slice's header is nothing beside its megabytes
			memories.Put(b)
		}
		return vm.outside("Close")
	}
	return nil
}

type fakeMSI struct{}

func (fakeMSI) Set(uint64, uint32) error { return nil }
func (fakeMSI) Signal() error            { return nil }
func (fakeMSI) Close() error             { return nil }

type fakeCPU struct {
	vm    *fakeVM
	id    int
	kick  chan struct{}
	do    chan func(hv.Handler) (hv.Exit, error) // what the guest does next
	state hv.State
	sets  int
}

func (c *fakeCPU) ID() int { return c.id }
func (c *fakeCPU) Kick() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}
func (c *fakeCPU) State() (hv.State, error) { return c.state, nil }
func (c *fakeCPU) SetState(s *hv.State) error {
	c.state, c.sets = *s, c.sets+1
	if f := c.vm.failing.Load(); f != nil && *f == "SetState" {
		return errFake
	}
	return nil
}
func (c *fakeCPU) Run(h hv.Handler) (hv.Exit, error) {
	if c.vm.paused.Load() {
		c.vm.complain("Run while paused")
	}
	c.vm.inside.Add(1)
	defer c.vm.inside.Add(-1)
	for {
		select { // a kick comes first, as the kernel has it
		case <-c.kick:
			return hv.Interrupted{}, nil
		default:
		}
		select {
		case <-c.kick:
			return hv.Interrupted{}, nil
		case f := <-c.do:
			if e, err := f(h); e != nil || err != nil {
				return e, err
			}
		}
	}
}

// fakeBoot boots nothing.
type fakeBoot struct {
	loads    *atomic.Int32
	checkErr error
	loadErr  func(n int32) error
}

func (b fakeBoot) Check(boot.Params) error { return b.checkErr }
func (b fakeBoot) Load(*guestmem.Memory, boot.Params) (*hv.State, error) {
	n := b.loads.Add(1)
	if b.loadErr != nil {
		if err := b.loadErr(n); err != nil {
			return nil, err
		}
	}
	return &hv.State{RIP: 0x1000 + uint64(n)}, nil
}

// probe is a device that holds the machine to the contract.
type probe struct {
	t      testing.TB
	vm     *fakeVM
	name   string
	log    *[]string
	state  string // "", "running", "paused", "halted", "closed"
	failAt string
	busy   atomic.Int32
}

func (p *probe) step(what, to string, from ...string) error {
	if p.busy.Add(1) != 1 {
		p.t.Errorf("%s: two calls at once", p.name)
	}
	defer p.busy.Add(-1)
	if p.vm.inside.Load() != 0 {
		p.t.Errorf("%s: %s with a vCPU inside Run", p.name, what)
	}
	ok := false
	for _, f := range from {
		ok = ok || f == p.state
	}
	if !ok {
		p.t.Errorf("%s: %s in state %q", p.name, what, p.state)
	}
	*p.log = append(*p.log, p.name+" "+what)
	if what == p.failAt {
		return errFake
	}
	p.state = to
	return nil
}

func (p *probe) Start() error  { return p.step("start", "running", "") }
func (p *probe) Pause() error  { return p.step("pause", "paused", "running") }
func (p *probe) Reset()        { _ = p.step("reset", "paused", "paused") }
func (p *probe) Resume() error { return p.step("resume", "running", "paused") }
func (p *probe) Halt()         { _ = p.step("halt", "halted", "", "running", "paused") }
func (p *probe) Close() error  { return p.step("close", "closed", "halted") }
