// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
)

// errNotCapable is FreeBSD's ENOTCAPABLE.
var errNotCapable = errors.New("not capable")

// fakeHost is a kernel in memory that holds machines by name.
type fakeHost struct {
	mu       sync.Mutex
	machines map[string]*fakeMachine
	script   func(m *fakeMachine, cpu int) abi.Exit // what VM_RUN answers
	fail     map[uint32]error                       // requests that fail
	old      bool                                   // FreeBSD 14
	max      int
	confined bool
}

func newHost() *fakeHost {
	return &fakeHost{machines: map[string]*fakeMachine{}, fail: map[uint32]error{}}
}

func (h *fakeHost) create(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.machines[name] != nil {
		return syscall.EEXIST
	}
	h.machines[name] = &fakeMachine{host: h, cpus: map[int32]*fakeCPU{}, lines: map[int32]int{}}
	return nil
}

func (h *fakeHost) destroy(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.confined {
		return errNotCapable
	}
	if h.machines[name] == nil {
		return errNoMachine
	}
	delete(h.machines, name)
	return nil
}

func (h *fakeHost) open(name string) (machine, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.machines[name]; m != nil {
		return m, nil
	}
	return nil, syscall.ENOENT
}

func (h *fakeHost) openSegment(name, segment string) (mapper, error) {
	if segment != romName {
		return nil, syscall.ENOENT
	}
	return h.open(name)
}

func (h *fakeHost) names() (out []string, err error) {
	for n := range h.machines {
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

func (h *fakeHost) maxVCPUs() int { return h.max }
func (h *fakeHost) confine() error {
	h.confined = true
	return nil
}
func (h *fakeHost) close() error { return nil }

type fakeCPU struct {
	regs          [abi.VM_REG_LAST]uint64
	segs          map[int32]abi.SegDesc
	caps          map[int32]int32
	active, debug bool
	suspended     bool
}

// fakeMachine keeps what was told to it, and answers VM_RUN from the script.
type fakeMachine struct {
	host *fakeHost

	mu       sync.Mutex
	cpus     map[int32]*fakeCPU
	suspend  int32
	topology abi.Topology
	segs     []abi.Memseg
	maps     []abi.Memmap
	lines    map[int32]int // assertions counted
	msis     []abi.LapicMSI
	events   []abi.Exception
	rtc      [256]byte
	reinits  int
	restarts int
	maps8    [][]byte
	closed   int
	allowed  []uint32 // once confined
	// tables maps linear pages to physical ones; a page that is not there faults.
	tables map[uint64]uint64
}

func (m *fakeMachine) close() error {
	m.closed++
	return nil
}

func (m *fakeMachine) confine(requests []uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.allowed = requests
	return nil
}

func (m *fakeMachine) mmap(_ int64, size int) ([]byte, error) {
	b := make([]byte, size)
	m.maps8 = append(m.maps8, b)
	return b, nil
}

func (m *fakeMachine) munmap([]byte) error { return nil }

func (m *fakeMachine) cpu(id int32) *fakeCPU {
	c := m.cpus[id]
	if c == nil {
		c = &fakeCPU{segs: map[int32]abi.SegDesc{}, caps: map[int32]int32{}}
		m.cpus[id] = c
	}
	return c
}

func (m *fakeMachine) ioctl(req uint32, arg unsafe.Pointer) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.allowed != nil && !slices.Contains(m.allowed, req) {
		return errNotCapable
	}
	if err := m.host.fail[req]; err != nil {
		return err
	}
	switch req {
	case abi.VM_RUN:
		return m.run((*abi.Run)(arg))
	case abi.VM_SET_TOPOLOGY:
		m.topology = *(*abi.Topology)(arg)
	case abi.VM_RTC_SETTIME, abi.VM_ISA_SET_IRQ_TRIGGER, abi.VM_SET_X2APIC_STATE:
	case abi.VM_RTC_WRITE:
		d := (*abi.RTCData)(arg)
		m.rtc[d.Offset] = d.Value
	case abi.VM_SET_CAPABILITY:
		c := (*abi.Capability)(arg)
		m.cpu(c.Cpuid).caps[c.Captype] = c.Capval
	case abi.VM_GET_MEMSEG, abi.VM_ALLOC_MEMSEG:
		if m.host.old {
			return syscall.ENOTTY
		}
		if req == abi.VM_ALLOC_MEMSEG {
			m.segs = append(m.segs, *(*abi.Memseg)(arg))
		}
	case abi.VM_GET_MEMSEG_14:
	case abi.VM_ALLOC_MEMSEG_14:
		s := (*abi.Memseg14)(arg)
		m.segs = append(m.segs, abi.Memseg{Segid: s.Segid, Len: s.Len, Name: s.Name})
	case abi.VM_MMAP_MEMSEG:
		m.maps = append(m.maps, *(*abi.Memmap)(arg))
	case abi.VM_ACTIVATE_CPU:
		c := m.cpu((*abi.ActivateCPU)(arg).Vcpuid)
		if c.active {
			return syscall.EBUSY
		}
		c.active = true
	case abi.VM_SUSPEND_CPU, abi.VM_RESUME_CPU:
		c := m.cpu((*abi.ActivateCPU)(arg).Vcpuid)
		if !c.active || req == abi.VM_RESUME_CPU && !c.debug {
			return syscall.EINVAL
		}
		c.debug = req == abi.VM_SUSPEND_CPU
	case abi.VM_SUSPEND:
		if m.suspend != 0 {
			return syscall.EALREADY
		}
		m.suspend = (*abi.Suspend)(arg).How
	case abi.VM_REINIT:
		for _, c := range m.cpus {
			if c.active && !c.suspended {
				return syscall.EBUSY
			}
			c.active, c.suspended, c.debug = false, false, false
		}
		m.suspend = 0
		m.reinits++
		m.maps = slices.DeleteFunc(m.maps, func(mm abi.Memmap) bool { return mm.Segid != abi.SegSysmem })
	default:
		return m.ioctl2(req, arg)
	}
	return nil
}

func (m *fakeMachine) ioctl2(req uint32, arg unsafe.Pointer) error {
	switch req {
	case abi.VM_GET_REGISTER:
		r := (*abi.Register)(arg)
		r.Regval = m.cpu(r.Cpuid).regs[r.Regnum]
	case abi.VM_SET_REGISTER:
		r := (*abi.Register)(arg)
		m.cpu(r.Cpuid).regs[r.Regnum] = r.Regval
	case abi.VM_GET_REGISTER_SET, abi.VM_SET_REGISTER_SET:
		s := (*abi.RegisterSet)(arg)
		nums, vals := unsafe.Slice(s.Regnums, s.Count), unsafe.Slice(s.Regvals, s.Count)
		for i, n := range nums {
			if req == abi.VM_GET_REGISTER_SET {
				vals[i] = m.cpu(s.Cpuid).regs[n]
			} else {
				m.cpu(s.Cpuid).regs[n] = vals[i]
			}
		}
	case abi.VM_GET_SEGMENT_DESCRIPTOR:
		d := (*abi.SegDesc)(arg)
		*d = m.cpu(d.Cpuid).segs[d.Regnum]
	case abi.VM_SET_SEGMENT_DESCRIPTOR:
		d := (*abi.SegDesc)(arg)
		m.cpu(d.Cpuid).segs[d.Regnum] = *d
	case abi.VM_ISA_ASSERT_IRQ:
		m.lines[(*abi.IsaIRQ)(arg).IoapicIrq]++
	case abi.VM_ISA_DEASSERT_IRQ:
		m.lines[(*abi.IsaIRQ)(arg).IoapicIrq]--
	case abi.VM_IOAPIC_ASSERT_IRQ:
		m.lines[(*abi.IoapicIRQ)(arg).Irq]++
	case abi.VM_IOAPIC_DEASSERT_IRQ:
		m.lines[(*abi.IoapicIRQ)(arg).Irq]--
	case abi.VM_LAPIC_MSI:
		m.msis = append(m.msis, *(*abi.LapicMSI)(arg))
	case abi.VM_INJECT_EXCEPTION:
		m.events = append(m.events, *(*abi.Exception)(arg))
	case abi.VM_RESTART_INSTRUCTION:
		m.restarts++
	case abi.VM_GLA2GPA:
		g := (*abi.Gla2gpa)(arg)
		page, ok := m.tables[g.Gla/pageSize]
		if !ok {
			g.Fault = 1
			return nil
		}
		g.Gpa = page*pageSize + g.Gla%pageSize
	case abi.VM_GET_HPET_CAPABILITIES:
		(*abi.HPETCap)(arg).Capabilities = 0x80860701
	case abi.VM_STATS:
		s := (*abi.Stats)(arg)
		s.NumEntries = 70
		for i := range s.Statbuf {
			s.Statbuf[i] = uint64(int(s.Index) + i)
		}
	case abi.VM_STAT_DESC:
		d := (*abi.StatDesc)(arg)
		copy(d.Desc[:], fmt.Sprintf("counter %d", d.Index))
	default:
		return syscall.ENOTTY
	}
	return nil
}

// run is VM_RUN: suspensions first, then the debug flag, then the guest.
func (m *fakeMachine) run(r *abi.Run) error {
	c := m.cpu(r.Cpuid)
	if !c.active || c.suspended {
		return syscall.EINVAL
	}
	switch {
	case m.suspend != 0:
		c.suspended = true
		for m.waiting() { // for all the others, as the kernel does
			m.mu.Unlock()
			yield()
			m.mu.Lock()
		}
		*r.Exit = abi.Exit{Exitcode: abi.VM_EXITCODE_SUSPENDED, U: [15]uint64{uint64(m.suspend)}}
	case c.debug:
		*r.Exit = abi.Exit{Exitcode: abi.VM_EXITCODE_DEBUG}
	default:
		m.mu.Unlock()
		e := m.host.script(m, int(r.Cpuid))
		m.mu.Lock()
		*r.Exit = e
	}
	return nil
}

func (m *fakeMachine) waiting() bool {
	for _, c := range m.cpus {
		if c.active && !c.suspended {
			return true
		}
	}
	return false
}
