// SPDX-License-Identifier: BSD-2-Clause

package vmm

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"

	"github.com/skepvm/skep/vmm/hv"
)

// cpu is a vCPU's goroutine. It waits for an order, runs the guest until it is
// halted or the guest leaves for good, and tells so on Machine.stopped.
type cpu struct {
	m      *Machine
	v      hv.VCPU
	orders chan order
	gone   chan struct{} // closed when the goroutine has ended
	rest   atomic.Bool   // leave the guest and wait
	in     bool          // an order has been given and no stop has come back

	ports, mmios, kicks atomic.Uint64
}

// order says what a vCPU does next: set its state (if not nil), then run; or
// only read its state.
type order struct {
	set  *hv.State
	read chan<- readState
}

type readState struct {
	state hv.State
	err   error
}

// stop is a vCPU's report that it has left the guest. exit is hv.Interrupted if
// it was asked to.
type stop struct {
	cpu   *cpu
	exit  hv.Exit
	err   error
	state *hv.State // for an exit that ends the machine
}

func newCPU(m *Machine, v hv.VCPU) *cpu {
	return &cpu{m: m, v: v, orders: make(chan order, 1), gone: make(chan struct{})}
}

// halt makes the vCPU leave the guest and rest. It does not wait.
func (c *cpu) halt() {
	c.rest.Store(true)
	c.v.Kick()
}

// loop is the goroutine. It ends when orders is closed.
func (c *cpu) loop() {
	defer close(c.gone)
	// The thread is not given back: it ends with the goroutine.
	runtime.LockOSThread()
	for o := range c.orders {
		if o.read != nil {
			s, err := c.v.State()
			o.read <- readState{s, err}
			continue
		}
		s := c.enter(o)
		s.cpu = c
		c.m.stopped <- s
	}
}

func (c *cpu) enter(o order) (s stop) {
	defer func() {
		// A device's defect must not take the report with it.
		if r := recover(); r != nil {
			c.m.cfg.Log.Error("vCPU goroutine panicked", "vcpu", c.v.ID(), "panic", r, "stack", string(debug.Stack()))
			s = stop{err: fmt.Errorf("internal error: %v", r)}
			c.addState(&s)
		}
	}()
	if o.set != nil {
		if err := c.v.SetState(o.set); err != nil {
			return stop{err: err}
		}
	}
	for {
		exit, err := c.v.Run((*handler)(c))
		if err != nil {
			s := stop{err: err}
			c.addState(&s)
			return s
		}
		if _, ok := exit.(hv.Interrupted); ok {
			c.kicks.Add(1)
			if !c.rest.Load() {
				continue
			}
			return stop{exit: exit}
		}
		s := stop{exit: exit}
		c.addState(&s)
		return s
	}
}

func (c *cpu) addState(s *stop) {
	if st, err := c.v.State(); err == nil {
		s.state = &st
	}
}

// handler is a cpu as its backend sees it.
type handler cpu

func (h *handler) PortRead(port uint16, size int) uint32 {
	h.ports.Add(1)
	v, _ := h.m.ports.Read(uint64(port), size)
	return uint32(v)
}

func (h *handler) PortWrite(port uint16, size int, v uint32) {
	h.ports.Add(1)
	h.m.ports.Write(uint64(port), size, uint64(v))
}

func (h *handler) MMIORead(gpa uint64, size int) uint64 {
	h.mmios.Add(1)
	v, _ := h.m.mmio.Read(gpa, size)
	return v
}

func (h *handler) MMIOWrite(gpa uint64, size int, v uint64) {
	h.mmios.Add(1)
	h.m.mmio.Write(gpa, size, v)
}
