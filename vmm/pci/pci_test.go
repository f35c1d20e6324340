// SPDX-License-Identifier: BSD-2-Clause

package pci_test

import (
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/skepvm/skep/vmm/bus"
	"github.com/skepvm/skep/vmm/pci"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

// ram is a BAR that remembers its first bytes.
type ram struct {
	mu sync.Mutex
	b  [64]byte
}

func (r *ram) Read(off uint64, size int) (v uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range size {
		if off+uint64(i) < uint64(len(r.b)) {
			v |= uint64(r.b[off+uint64(i)]) << (8 * i)
		}
	}
	return v
}

func (r *ram) Write(off uint64, size int, v uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range size {
		if off+uint64(i) < uint64(len(r.b)) {
			r.b[off+uint64(i)] = byte(v >> (8 * i))
		}
	}
}

type fn struct {
	*pci.Passive
	f    *pci.Function
	bars [6]*ram
	msix *pci.MSIX
}

// newFn makes a function with a memory BAR of 4 KiB, a 64-bit one of 16 KiB, one
// of 32 ports, and MSI-X with 70 vectors in a BAR of its own.
func newFn(t testing.TB) *fn {
	t.Helper()
	f := pci.NewFunction(pci.ID{Vendor: 0x1234, Device: 0x5678, Class: 0x123456, Revision: 9, SubsystemVendor: 0xabcd, Subsystem: 0xef01})
	x := &fn{Passive: pci.NewPassive(f), f: f}
	f.SetName("test")
	f.SetPin(1)
	m, err := f.AddMSIX(70, 5, 0, 0x800)
	if err != nil {
		t.Fatal(err)
	}
	x.msix = m
	var s pci.Space
	if err := s.Bus.Map(0, m.TableSize(), m.Table()); err != nil {
		t.Fatal(err)
	}
	if err := s.Bus.Map(0x800, m.PBASize(), m.PBA()); err != nil {
		t.Fatal(err)
	}
	for i, b := range map[int]pci.BAR{
		0: {Kind: pci.Mem32, Size: 0x1000}, 1: {Kind: pci.Mem64, Size: 0x4000, Prefetch: true},
		3: {Kind: pci.IO, Size: 32}, 5: {Kind: pci.Mem32, Size: 0x1000, Dev: &s},
	} {
		if b.Dev == nil {
			x.bars[i] = &ram{}
			b.Dev = x.bars[i]
		}
		if err := f.AddBAR(i, b); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

func machine(t testing.TB, fns ...*fn) *vt.Machine {
	t.Helper()
	m := vt.NewMachine(t, 1<<20, true)
	for i, f := range fns {
		if err := m.PCI.Attach(i+1, 0, f); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.PCI.AssignBARs(); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestConfigAccess(t *testing.T) {
	m := machine(t, newFn(t))
	port := func(slot, off, size int) uint32 {
		m.Ports.Write(0xcf8, 4, uint64(1<<31|slot<<11|off&^3))
		v, ok := m.Ports.Read(uint64(0xcfc+off&3), size)
		if !ok {
			t.Errorf("port %#x does not answer", 0xcfc+off&3)
		}
		return uint32(v)
	}
	for slot := range 3 {
		for off := 0; off < 256; off++ {
			for _, size := range []int{1, 2, 4} {
				if off%size != 0 {
					continue
				}
				if a, b := port(slot, off, size), m.Config(slot, off, size); a != b {
					t.Fatalf("slot %d offset %#x/%d: %#x by port, %#x by ECAM", slot, off, size, a, b)
				}
			}
		}
	}
	if v := m.Config(0, 0, 4); v != 0x12751275 {
		t.Errorf("host bridge %#x", v)
	}
	for off, want := range map[int]uint32{0: 0x56781234, 8: 0x12345609, 0x2c: 0xef01abcd} {
		if v := m.Config(1, off, 4); v != want {
			t.Errorf("offset %#x: %#x, want %#x", off, v, want)
		}
		m.SetConfig(1, off, 4, 0xffffffff)
		if v := m.Config(1, off, 4); v != want {
			t.Errorf("offset %#x was written", off)
		}
	}
	if v := m.Load(m.PCI.Layout().ECAM+1<<15, 8); v>>32 != uint64(m.Config(1, 4, 4)) || uint32(v) != 0x56781234 {
		t.Errorf("8 bytes: %#x", v)
	}
	if line := m.Config(1, 0x3c, 2); line != uint32(1<<8|pci.GSI(1, 1)) {
		t.Errorf("interrupt line and pin %#x", line)
	}
	for _, bdf := range []uint64{1 << 31, 31 << 15, 1 << 20, 255 << 20} { // nobody there
		if v := m.Load(m.PCI.Layout().ECAM+bdf&^(1<<31)|7<<12, 4); v != 0xffffffff {
			t.Errorf("%#x answers %#x", bdf, v)
		}
	}
	// Without the enable bit, or by other widths, 0xcf8 is no way in.
	m.Ports.Write(0xcf8, 4, 1<<11)
	if v, _ := m.Ports.Read(0xcfc, 4); v != 0xffffffff {
		t.Errorf("disabled: %#x", v)
	}
	m.Ports.Write(0xcf8, 4, 1<<31|1<<11)
	m.Ports.Write(0xcf8, 2, 0)
	m.Ports.Write(0xcfa, 1, 0)
	if v, _ := m.Ports.Read(0xcf8, 4); v != 1<<31|1<<11 {
		t.Errorf("address register %#x", v)
	}
	m.PCI.Reset()
	if v, _ := m.Ports.Read(0xcf8, 4); v != 0 {
		t.Errorf("address register after reset %#x", v)
	}
}

type resetPort struct{ v uint64 }

func (r *resetPort) Read(off uint64, size int) uint64     { return 0x5a }
func (r *resetPort) Write(off uint64, size int, v uint64) { r.v = v<<8 | off<<4 | uint64(size) }

func TestResetPort(t *testing.T) {
	m := machine(t)
	if v, ok := m.Ports.Read(0xcf9, 1); v != 0xff || !ok {
		t.Errorf("nobody's port reads %#x", v)
	}
	var r resetPort
	m.PCI.SetResetPort(&r)
	m.Ports.Write(0xcf9, 1, 6)
	if v, _ := m.Ports.Read(0xcf9, 1); v != 0x5a || r.v != 6<<8|1 {
		t.Errorf("read %#x, written %#x", v, r.v)
	}
	m.Ports.Write(0xcf8, 4, 0x80000600)
	if r.v != 6<<8|1 {
		t.Error("an address reached the reset port")
	}
}

// base reads where a BAR is.
func base(m *vt.Machine, slot, n int) uint64 {
	lo := m.Config(slot, 0x10+4*n, 4)
	if lo&1 != 0 {
		return uint64(lo &^ 3)
	}
	v := uint64(lo &^ 15)
	if lo&6 == 4 {
		v |= uint64(m.Config(slot, 0x14+4*n, 4)) << 32
	}
	return v
}

func setBase(m *vt.Machine, slot, n int, v uint64) {
	m.SetConfig(slot, 0x10+4*n, 4, uint32(v))
	if n == 1 {
		m.SetConfig(slot, 0x14+4*n, 4, uint32(v>>32))
	}
}

func TestBARs(t *testing.T) {
	f := newFn(t)
	m := machine(t, f, newFn(t))
	for n, want := range map[int]uint32{0: 0xfffff000, 1: 0xffffc00c, 2: 0xffffffff, 3: 0xffffffe1, 4: 0, 5: 0xfffff000} {
		old := m.Config(1, 0x10+4*n, 4)
		m.SetConfig(1, 4, 2, 0)
		m.SetConfig(1, 0x10+4*n, 4, 0xffffffff)
		if got := m.Config(1, 0x10+4*n, 4); got != want {
			t.Errorf("BAR %d sizes as %#x, want %#x", n, got, want)
		}
		m.SetConfig(1, 0x10+4*n, 4, old)
		m.SetConfig(1, 4, 2, 7)
	}
	m.Store(base(m, 1, 0)+8, 4, 0x11223344)
	if f.bars[0].b[8] != 0x44 || m.Load(base(m, 1, 0)+8, 4) != 0x11223344 {
		t.Error("BAR 0 does not answer")
	}
	m.Ports.Write(base(m, 1, 3), 1, 0x77)
	if f.bars[3].b[0] != 0x77 {
		t.Error("the port BAR does not answer")
	}
	// 64-bit, above 4 GiB.
	setBase(m, 1, 1, 3<<37)
	m.Store(3<<37, 8, 42)
	if f.bars[1].b[0] != 42 {
		t.Error("BAR 1 did not move up")
	}
	// On top of the other function's: whoever was there stays, and the second
	// appears as soon as there is room.
	there := base(m, 2, 0)
	m.Store(base(m, 2, 0), 1, 0x22)
	setBase(m, 1, 0, there)
	if v := m.Load(there, 1); v != 0x22 {
		t.Errorf("the first owner lost its range: %#x", v)
	}
	setBase(m, 2, 0, there+0x10000)
	if v := m.Load(there+8, 4); v != 0x11223344 {
		t.Errorf("the second did not get the range: %#x", v)
	}
	// Where the bridge forwards nothing, over ECAM, over other devices.
	for _, to := range []uint64{0, 0xfee00000, 0xfec00000, 0xe0000000, 0xfffff000, 0x9ffff000, 0xdffff800} {
		setBase(m, 1, 0, to)
		if m.Config(1, 0x10, 4) != uint32(to)&^0xfff {
			t.Errorf("register does not hold %#x", to)
		}
		if to == 0xe0000000 && m.Load(to, 4) != 0x12751275 {
			t.Error("a BAR covers ECAM")
		}
		if to != 0xe0000000 && to != 0xdffff800 && m.Load(to+8, 4) != 0xffffffff {
			t.Errorf("a BAR answers at %#x", to)
		}
	}
	setBase(m, 1, 3, 0xcf8)
	if m.Config(0, 0, 4) != 0x12751275 {
		t.Error("a BAR covers the configuration ports")
	}
	f.Reset()
	if m.Load(base(m, 1, 0)+8, 4) != 0x11223344 {
		t.Error("reset did not bring the BAR back")
	}
}

func TestMSIX(t *testing.T) {
	f := newFn(t)
	m := machine(t, f)
	m.SetConfig(1, 4, 2, 7)
	cap := int(m.Config(1, 0x34, 1))
	if m.Config(1, cap, 1) != 0x11 || m.Config(1, cap+2, 2) != 69 {
		t.Fatalf("capability %#x", m.Config(1, cap, 4))
	}
	at := base(m, 1, 5)
	entry := func(n int, data uint32, ctrl uint64) {
		m.Store(at+16*uint64(n), 8, 0xfee00000)
		m.Store(at+16*uint64(n)+8, 4, uint64(data))
		m.Store(at+16*uint64(n)+12, 4, ctrl)
	}
	pending := func(n int) bool { return m.Load(at+0x800+uint64(n/64*8), 8)>>(n%64)&1 != 0 }
	if f.msix.Signal(0) {
		t.Error("on at power-on")
	}
	m.SetConfig(1, cap+2, 2, 1<<15)
	entry(3, 33, 0)
	entry(69, 99, 1)
	a, b := m.VM.Interrupt(33), m.VM.Interrupt(99)
	if !f.msix.Signal(3) || a.Count() != 1 || pending(3) {
		t.Errorf("count %d", a.Count())
	}
	f.msix.Signal(69)
	f.msix.Signal(69)
	if b.Count() != 0 || !pending(69) {
		t.Error("a masked vector was delivered, or is not pending")
	}
	m.Store(at+16*69+12, 4, 0)
	if b.Count() != 1 || pending(69) {
		t.Error("unmasking did not deliver once")
	}
	m.SetConfig(1, cap+2, 2, 3<<14)
	f.msix.Signal(3)
	if a.Count() != 1 || !pending(3) {
		t.Error("the function mask does not hold")
	}
	m.SetConfig(1, cap+2, 2, 1<<15)
	if a.Count() != 2 {
		t.Error("lifting the function mask did not deliver")
	}
	m.SetConfig(1, 4, 2, 3) // no bus mastering: a message is a write to memory
	f.msix.Signal(3)
	if a.Count() != 2 {
		t.Error("a message without bus mastering")
	}
	m.SetConfig(1, 4, 2, 7)
	if a.Count() != 3 {
		t.Error("the message was lost with bus mastering")
	}
	for _, n := range []int{-1, 70, 1 << 20} {
		f.msix.Signal(n)
	}
	// Odd widths do nothing; reading any is harmless.
	before := m.Load(at+48, 8)
	m.Store(at+48, 1, 0xff)
	m.Store(at+50, 2, 0xff)
	m.Store(at+50, 4, 0xff)
	m.Store(at+52, 8, 0xff)
	m.Store(at+0x800, 8, ^uint64(0))
	if m.Load(at+48, 8) != before || m.Load(at+56, 4) != 33 || m.Load(at+50, 2) != 0xfee0 {
		t.Error("a write of a wrong width was taken")
	}
	// A message to nowhere is lost, and the vector can be mended.
	m.Store(at+48, 4, 0xdead0000)
	f.msix.Signal(3)
	m.Store(at+48, 4, 0xfee00000)
	f.msix.Signal(3)
	if a.Count() != 4 {
		t.Errorf("count %d after a bad address", a.Count())
	}
	m.SetConfig(1, cap+2, 2, 0)
	if f.msix.Signal(3) || a.Count() != 4 {
		t.Error("delivered while off")
	}
	f.Reset()
	if m.Load(base(m, 1, 5)+60, 4) != 1 || m.Load(base(m, 1, 5)+48, 4) != 0 {
		t.Error("reset left a vector")
	}
	f.Close()
	f.Close()
	f.msix.Signal(3)
	if n := m.VM.Open(); n != 0 {
		t.Errorf("%d sources left", n)
	}
}

// Two functions share a line: it is up while either asserts it.
func TestSharedLine(t *testing.T) {
	var fns []*fn
	for range 9 {
		fns = append(fns, newFn(t))
	}
	m := machine(t, fns...)
	a, b, line := fns[0].f, fns[8].f, pci.GSI(1, 1)
	if line != pci.GSI(9, 1) {
		t.Fatal("slots 1 and 9 do not share")
	}
	up := func() bool { l, _ := m.VM.Line(line); return l }
	a.SetINTx(true)
	b.SetINTx(true)
	a.SetINTx(false)
	if !up() {
		t.Error("down though one asserts it")
	}
	m.SetConfig(9, 4, 2, 1<<10)
	if up() {
		t.Error("up though the one that asserts it is disabled")
	}
	m.SetConfig(9, 4, 2, 0)
	if !up() {
		t.Error("down after enabling")
	}
	b.Reset()
	if up() {
		t.Error("up after reset")
	}
}

func TestAttachErrors(t *testing.T) {
	m := vt.NewMachine(t, 1<<20, true)
	f := newFn(t)
	for _, c := range []struct {
		slot, fn int
		want     string
	}{
		{0, 0, "taken"}, {32, 0, "no slot"}, {-1, 0, "no slot"}, {1, 8, "no slot"}, {1, 1, "no function 0"},
	} {
		if err := m.PCI.Attach(c.slot, c.fn, f); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d.%d: %v", c.slot, c.fn, err)
		}
	}
	if err := m.PCI.Attach(1, 0, f); err != nil {
		t.Fatal(err)
	}
	if err := m.PCI.Attach(2, 0, f); err == nil {
		t.Error("attached twice")
	}
	if err := m.PCI.Attach(1, 3, newFn(t)); err != nil {
		t.Fatal(err)
	}
	if m.Config(1, 0x0e, 1) != 0x80 {
		t.Error("no multi-function bit")
	}
	if v := m.Load(m.PCI.Layout().ECAM+1<<15+3<<12, 4); v != 0x56781234 {
		t.Errorf("function 3 answers %#x", v)
	}
	if _, err := f.f.AddCapability(9, nil, nil); err == nil {
		t.Error("a capability after Attach")
	}
	if err := f.f.AddBAR(4, pci.BAR{Size: 16, Dev: &ram{}}); err == nil {
		t.Error("a BAR after Attach")
	}
}

func TestFunctionErrors(t *testing.T) {
	f := pci.NewFunction(pci.ID{})
	d := bus.Device(&ram{})
	if err := f.AddBAR(1, pci.BAR{Kind: pci.Mem64, Size: 4096, Dev: d}); err != nil {
		t.Fatal(err)
	}
	for n, b := range map[int]pci.BAR{
		-1: {Size: 4096, Dev: d}, 6: {Size: 4096, Dev: d}, 5: {Kind: pci.Mem64, Size: 4096, Dev: d}, 0: {Kind: pci.Mem64, Size: 4096, Dev: d},
		1: {Size: 4096, Dev: d}, 2: {Size: 4096, Dev: d}, 3: {Size: 4097, Dev: d}, 4: {Size: 4096},
	} {
		if err := f.AddBAR(n, b); err == nil {
			t.Errorf("BAR %d %+v was taken", n, b)
		}
	}
	for _, n := range []int{0, -1, 257} {
		if _, err := f.AddMSIX(n, 0, 0, 0); err == nil {
			t.Errorf("%d vectors", n)
		}
	}
	room := 0
	for ; ; room++ {
		if _, err := f.AddCapability(9, make([]byte, 14), nil); err != nil {
			break
		}
	}
	if room != 12 {
		t.Errorf("room for %d capabilities of 16 bytes", room)
	}
}

func TestAssignBARs(t *testing.T) {
	var fns []*fn
	for range 20 {
		fns = append(fns, newFn(t))
	}
	m := machine(t, fns...)
	seen := map[uint64]bool{}
	for slot := 1; slot <= 20; slot++ {
		for n, size := range map[int]uint64{0: 0x1000, 1: 0x4000, 3: 32, 5: 0x1000} {
			at := base(m, slot, n)
			if at == 0 || at%size != 0 || seen[at] {
				t.Errorf("slot %d BAR %d at %#x", slot, n, at)
			}
			seen[at] = true
		}
	}
	big := pci.NewFunction(pci.ID{})
	if err := big.AddBAR(0, pci.BAR{Kind: pci.Mem64, Size: 1 << 33, Dev: &ram{}}); err != nil {
		t.Fatal(err)
	}
	m = vt.NewMachine(t, 1<<20, false)
	if err := m.PCI.Attach(1, 0, pci.NewPassive(big)); err != nil {
		t.Fatal(err)
	}
	if err := m.PCI.AssignBARs(); err != nil || base(m, 1, 0) < 1<<32 {
		t.Errorf("8 GiB BAR at %#x: %v", base(m, 1, 0), err)
	}
	big = pci.NewFunction(pci.ID{})
	if err := big.AddBAR(0, pci.BAR{Kind: pci.Mem32, Size: 1 << 31, Dev: &ram{}}); err != nil {
		t.Fatal(err)
	}
	m = vt.NewMachine(t, 1<<20, false)
	if err := m.PCI.Attach(1, 0, pci.NewPassive(big)); err != nil {
		t.Fatal(err)
	}
	if err := m.PCI.AssignBARs(); err == nil {
		t.Error("2 GiB fitted into the 32-bit window")
	}
}

// FuzzConfig throws accesses at configuration space, its ports and the windows,
// and then looks whether the machine still answers as it should.
// TestBudget: whatever a guest does with configuration space, an access costs
// little memory, leaves nothing open and drives a line at most once.
func TestBudget(t *testing.T) {
	const accesses = 20000
	fns := []*fn{newFn(t), newFn(t), newFn(t)}
	m := machine(t, fns...)
	open := m.VM.Open()
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, x := range fns {
		x.f.SetINTx(true)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range accesses {
		v := rnd.Uint64()
		switch rnd.IntN(4) {
		case 0:
			v = 0
		case 1:
			v = ^uint64(0)
		}
		slot, off := rnd.Uint64N(5), rnd.Uint64N(0x100)
		if rnd.IntN(4) == 0 {
			off = rnd.Uint64N(0x1000)
		}
		at, w := m.PCI.Layout().ECAM+slot<<15+off, 1<<rnd.IntN(4)
		if rnd.IntN(2) == 0 {
			m.Store(at, w, v)
			m.Load(at, w)
			continue
		}
		m.Ports.Write(0xcf8, 4, 1<<31|slot<<11|off&0xfc)
		m.Ports.Write(0xcfc+off&3, min(w, 4), v)
		m.Ports.Read(0xcfc+off&3, min(w, 4))
		m.Ports.Write(0xcf8+rnd.Uint64N(8), min(w, 4), v)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 64<<10+accesses*64 {
		t.Errorf("%d bytes allocated for %d accesses", got, accesses)
	}
	if n := m.VM.Open(); n != open {
		t.Errorf("%d interrupts and doorbells are open, %d before", n, open)
	}
	rises := 0
	for line := range 24 {
		_, n := m.VM.Line(line)
		rises += n
	}
	if rises > accesses {
		t.Errorf("lines rose %d times in %d accesses", rises, accesses)
	}
	for _, x := range fns {
		x.Close()
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte{0, 1, 4, 2, 0xff, 0, 1, 0x10, 4, 0xff, 0, 2, 0x14, 4, 0xff})
	f.Add([]byte{1, 0xf8, 4, 0x80, 1, 0xfc, 4, 0xff, 1, 0xf9, 1, 6, 1, 0xff, 2, 1})
	f.Add([]byte{0, 1, 0x42, 2, 0xff, 2, 1, 0x0c, 4, 0, 3, 5, 2, 1, 0x00, 8, 0xff})
	f.Fuzz(func(t *testing.T, p []byte) {
		fns := []*fn{newFn(t), newFn(t), newFn(t)}
		m := machine(t, fns...)
		defer func() {
			for _, x := range fns {
				x.Close()
			}
		}()
		widths := []int{1, 2, 4, 8}
		for ; len(p) >= 5; p = p[5:] {
			v, w := uint64(p[4])*0x0101010101010101, widths[p[3]%4]
			slot := int(p[1]) % 5
			switch p[0] % 5 {
			case 0:
				at := m.PCI.Layout().ECAM + uint64(slot)<<15 + uint64(p[2]) + uint64(p[3]>>4)<<8
				m.Store(at, w, v)
				m.Load(at, w)
			case 1:
				at := 0xcf8 + uint64(p[1]%8)
				m.Ports.Write(at, min(w, 4), v)
				m.Ports.Read(at, min(w, 4))
			case 2:
				for n := range 6 {
					if at := base(m, slot, n); at != 0 {
						m.Store(at+uint64(p[2])*8, w, v)
						m.Load(at+uint64(p[2])*8, w)
					}
				}
			case 3:
				x := fns[int(p[1])%3]
				x.msix.Signal(int(p[2]))
				x.f.SetINTx(p[4]&1 != 0)
			case 4:
				setBase(m, slot, int(p[2])%6, v>>(p[4]%64))
			}
		}
		for i, x := range fns {
			x.f.Reset()
			for n, size := range map[int]uint64{0: 0x1000, 1: 0x4000, 3: 32, 5: 0x1000} {
				at := base(m, i+1, n)
				if at == 0 || at%size != 0 {
					t.Fatalf("slot %d BAR %d at %#x after reset", i+1, n, at)
				}
			}
		}
		for i, x := range fns {
			m.Store(base(m, i+1, 0)+4, 4, 0xa5a5a5a5)
			if x.bars[0].Read(4, 4) != 0xa5a5a5a5 {
				t.Fatalf("slot %d does not answer after reset", i+1)
			}
			if up, _ := m.VM.Line(pci.GSI(i+1, 1)); up {
				t.Fatalf("line of slot %d is up after reset", i+1)
			}
		}
	})
}
