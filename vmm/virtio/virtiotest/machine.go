// SPDX-License-Identifier: BSD-2-Clause

package virtiotest

import (
	"errors"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm/bus"
	"github.com/skepvm/skep/vmm/guestmem"
	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/pci"
)

// High is where the machine's memory above the hole begins.
const High = 1 << 32

// Machine is a machine without processors: memory, buses and a PCI host.
type Machine struct {
	TB    testing.TB
	VM    *VM
	Mem   *guestmem.Memory
	Ports bus.Bus
	MMIO  bus.Bus
	PCI   *pci.Host

	mu   sync.Mutex
	next uint64 // first guest address that Alloc has not given out
	end  uint64
}

// NewMachine makes a machine with size bytes of memory at 0, some more above
// 4 GiB, and doorbells if wanted (else notifications arrive as register writes).
func NewMachine(tb testing.TB, size uint64, doorbells bool) *Machine {
	tb.Helper()
	m := &Machine{TB: tb, VM: &VM{bells: doorbells}, next: 0x1000, end: size}
	regions := []hv.Region{{Base: 0, Size: size}, {Base: High, Size: 1 << 20}, {Base: High + 1<<30, Size: 1 << 16, Kind: hv.ROM}}
	maps, err := m.VM.MapMemory(regions)
	tb.Cleanup(func() { // after the devices', which come later
		for _, p := range maps {
			if err := unix.Munmap(p); err != nil {
				tb.Error(err)
			}
		}
	})
	if err == nil {
		m.Mem, err = guestmem.New(regions, maps)
	}
	if err == nil {
		l := pci.DefaultLayout()
		l.Mem64 = pci.Window{Base: 1 << 38, Size: 1 << 38}
		m.PCI, err = pci.NewHost(pci.HostConfig{VM: m.VM, Ports: &m.Ports, MMIO: &m.MMIO, Layout: l})
	}
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// Alloc returns n bytes of guest memory that nobody else has, aligned to align.
func (m *Machine) Alloc(n, align uint64) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := (m.next + align - 1) &^ (align - 1)
	if at+n > m.end {
		m.TB.Fatalf("guest memory is used up: %d bytes wanted, %d left", n, m.end-m.next)
	}
	m.next = at + n
	return at
}

// Write and Read reach guest memory; they fail the test outside of it.
func (m *Machine) Write(gpa uint64, p []byte) {
	if err := m.Mem.WriteAt(p, gpa); err != nil {
		m.TB.Fatal(err)
	}
}

// Read returns n bytes of guest memory.
func (m *Machine) Read(gpa uint64, n int) []byte {
	p := make([]byte, n)
	if err := m.Mem.ReadAt(p, gpa); err != nil {
		m.TB.Fatal(err)
	}
	return p
}

// Store writes a memory-mapped register, as a guest's instruction would.
func (m *Machine) Store(gpa uint64, size int, v uint64) {
	if !m.VM.ring(gpa, size) {
		m.MMIO.Write(gpa, size, v)
	}
}

// Load reads a memory-mapped register.
func (m *Machine) Load(gpa uint64, size int) uint64 {
	v, _ := m.MMIO.Read(gpa, size)
	return v
}

// Config reads configuration space through ECAM.
func (m *Machine) Config(slot, off, size int) uint32 {
	return uint32(m.Load(m.configAddr(slot, off), size))
}

// SetConfig writes it.
func (m *Machine) SetConfig(slot, off, size int, v uint32) {
	m.Store(m.configAddr(slot, off), size, uint64(v))
}

func (m *Machine) configAddr(slot, off int) uint64 {
	return m.PCI.Layout().ECAM + uint64(slot)<<15 + uint64(off)
}

// VM is the hypervisor's side, which remembers interrupts.
type VM struct {
	// Refuse, if not nil, says why there is no doorbell at addr for writes of
	// size bytes. It is set before the first device starts.
	Refuse func(addr uint64, size int) error

	bells bool

	mu     sync.Mutex
	msis   map[uint32]*Interrupt // by message data
	lines  [24]bool
	edges  [24]int
	open   []*doorbell
	opened int // MSIs and doorbells that are not closed
}

// Interrupt counts one message.
type Interrupt struct {
	C chan struct{} // holds a token after an interrupt

	mu sync.Mutex
	n  int
}

// Count is how often the interrupt came.
func (i *Interrupt) Count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.n
}

func (i *Interrupt) signal() {
	i.mu.Lock()
	i.n++
	i.mu.Unlock()
	select {
	case i.C <- struct{}{}:
	default:
	}
}

// Interrupt returns the interrupt whose message data is data.
func (v *VM) Interrupt(data uint32) *Interrupt {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.msis == nil {
		v.msis = map[uint32]*Interrupt{}
	}
	if v.msis[data] == nil {
		v.msis[data] = &Interrupt{C: make(chan struct{}, 1)}
	}
	return v.msis[data]
}

// Line is a level-triggered line's state and how often it rose.
func (v *VM) Line(n int) (level bool, rose int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.lines[n], v.edges[n]
}

// Open is the number of MSIs and doorbells that nobody has closed.
func (v *VM) Open() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.opened
}

// Bells are the doorbells that there are: the size of write that rings each, 0
// for any, by address.
func (v *VM) Bells() map[uint64]int {
	v.mu.Lock()
	defer v.mu.Unlock()
	all := map[uint64]int{}
	for _, d := range v.open {
		all[d.addr] = d.size
	}
	return all
}

// The methods of hv.VM.

// MapMemory maps memory as a kernel would, outside of Go's heap: a guest and a
// device race for it by nature, and the race detector has no say there.
func (v *VM) MapMemory(regions []hv.Region) ([][]byte, error) {
	var maps [][]byte
	for _, r := range regions {
		m, err := unix.Mmap(-1, 0, int(r.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return maps, os.NewSyscallError("mmap", err)
		}
		maps = append(maps, m)
	}
	return maps, nil
}

// VCPU: there are none.
func (v *VM) VCPU(int) hv.VCPU { return nil }

// SetIRQ remembers the line.
func (v *VM) SetIRQ(line int, level bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if level && !v.lines[line] {
		v.edges[line]++
	}
	v.lines[line] = level
	return nil
}

type msi struct {
	v      *VM
	mu     sync.Mutex
	set    bool
	data   uint32
	closed bool
}

// NewMSI makes a source; only messages to the local APICs' page are delivered.
func (v *VM) NewMSI() (hv.MSI, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.opened++
	return &msi{v: v}, nil
}

func (m *msi) Set(addr uint64, data uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if addr>>20 != 0xfee {
		m.set = false
		return errors.New("no such message address")
	}
	m.set, m.data = true, data
	return nil
}

func (m *msi) Signal() error {
	m.mu.Lock()
	set, data, closed := m.set, m.data, m.closed
	m.mu.Unlock()
	if closed {
		return hv.ErrClosed
	}
	if set {
		m.v.Interrupt(data).signal()
	}
	return nil
}

func (m *msi) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.v.mu.Lock()
		m.v.opened--
		m.v.mu.Unlock()
	}
	m.closed = true
	return nil
}

type doorbell struct {
	v    *VM
	addr uint64
	size int
	ch   chan struct{}
	gone chan struct{}
	once sync.Once
}

// NewDoorbell is unsupported where the machine was made without.
func (v *VM) NewDoorbell(addr uint64, size int) (hv.Doorbell, error) {
	if !v.bells {
		return nil, errors.ErrUnsupported
	}
	if v.Refuse != nil {
		if err := v.Refuse(addr, size); err != nil {
			return nil, err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, d := range v.open {
		if d.addr == addr {
			return nil, errors.New("doorbell exists")
		}
	}
	d := &doorbell{v: v, addr: addr, size: size, ch: make(chan struct{}, 1), gone: make(chan struct{})}
	v.open = append(v.open, d)
	v.opened++
	return d, nil
}

func (v *VM) ring(addr uint64, size int) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, d := range v.open {
		if d.addr == addr && (d.size == 0 || d.size == size) {
			d.Ring()
			return true
		}
	}
	return false
}

func (d *doorbell) Wait() error {
	select {
	case <-d.ch:
		return nil
	case <-d.gone:
		return hv.ErrClosed
	}
}

func (d *doorbell) Ring() {
	select {
	case d.ch <- struct{}{}:
	default:
	}
}

func (d *doorbell) Close() error {
	d.once.Do(func() {
		close(d.gone)
		d.v.mu.Lock()
		defer d.v.mu.Unlock()
		d.v.opened--
		for i, o := range d.v.open {
			if o == d {
				d.v.open = append(d.v.open[:i:i], d.v.open[i+1:]...)
				break
			}
		}
	})
	return nil
}

// Reset, Pause, Resume and Close have nothing to do.
func (v *VM) Reset() error  { return nil }
func (v *VM) Pause() error  { return nil }
func (v *VM) Resume() error { return nil }
func (v *VM) Close() error  { return nil }
