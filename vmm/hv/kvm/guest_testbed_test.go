// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && linux

package kvm

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/guestmem"
	"github.com/skepvm/skep/vmm/hv"
)

// recorder is a Handler that notes every access and answers reads by address.
type recorder struct {
	mu  sync.Mutex
	log []string
	on  func(string)
}

func (r *recorder) note(f string, a ...any) {
	r.mu.Lock()
	s := fmt.Sprintf(f, a...)
	r.log = append(r.log, s)
	on := r.on
	r.mu.Unlock()
	if on != nil {
		on(s)
	}
}
func (r *recorder) PortRead(p uint16, n int) uint32     { r.note("in %#x/%d", p, n); return 0x11223344 }
func (r *recorder) PortWrite(p uint16, n int, v uint32) { r.note("out %#x/%d %#x", p, n, v) }
func (r *recorder) MMIORead(a uint64, n int) uint64 {
	r.note("read %#x/%d", a, n)
	return 0x8877665544332211
}
func (r *recorder) MMIOWrite(a uint64, n int, v uint64) { r.note("write %#x/%d %#x", a, n, v) }

func (r *recorder) want(t *testing.T, want ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range max(len(want), len(r.log)) {
		g, w := "nothing", "nothing"
		if i < len(r.log) {
			g = r.log[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("access %d: %s, want %s", i, g, w)
		}
	}
}

type tiny struct {
	vm  hv.VM
	mem *guestmem.Memory
	rec recorder
}

func newTiny(t *testing.T, cpus int) *tiny {
	t.Helper()
	b, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	vm, err := b.NewVM(hv.Config{VCPUs: cpus, Topology: hv.Topology{Sockets: 1, Cores: cpus, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vm.Close(); err != nil {
			t.Error(err)
		}
	})
	rs := []hv.Region{{Base: 0, Size: 4 << 20}}
	maps, err := vm.MapMemory(rs)
	if err != nil {
		t.Fatal(err)
	}
	mem, err := guestmem.New(rs, maps)
	if err != nil {
		t.Fatal(err)
	}
	return &tiny{vm: vm, mem: mem}
}

// real is real mode at 0:0x1000 with everything flat but limited to 64 KiB.
func real() *hv.State {
	d := hv.Segment{Limit: 0xffff, Access: 0x93}
	return &hv.State{RIP: 0x1000, RSP: 0x8000, RFLAGS: 2, CR0: 0x10,
		CS: hv.Segment{Limit: 0xffff, Access: 0x9b}, DS: d, ES: d, FS: d, GS: d, SS: d,
		TR: hv.Segment{Limit: 0xffff, Access: 0x8b}, LDTR: hv.Segment{Limit: 0xffff, Access: 0x82},
		GDTR: hv.Table{Limit: 0xffff}, IDTR: hv.Table{Limit: 0x3ff}}
}

func (g *tiny) run(t *testing.T, id int, code []byte, s *hv.State) (hv.Exit, hv.State) {
	t.Helper()
	if err := g.mem.WriteAt(code, 0x1000); err != nil {
		t.Fatal(err)
	}
	type result struct {
		e   hv.Exit
		s   hv.State
		err error
	}
	ch := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		v := g.vm.VCPU(id)
		var r result
		if r.err = v.SetState(s); r.err == nil {
			if r.e, r.err = v.Run(&g.rec); r.err == nil {
				r.s, r.err = v.State()
			}
		}
		ch <- r
	}()
	select {
	case r := <-ch:
		if r.err != nil {
			t.Fatal(r.err)
		}
		return r.e, r.s
	case <-time.After(20 * time.Second):
		g.vm.VCPU(id).Kick()
		r := <-ch
		t.Fatalf("no exit in 20 s; then %v\n%v", r.e, &r.s)
		return nil, hv.State{}
	}
}

// TestExits makes each kind of access, and then stops itself by a port at which
// the handler kicks.
func TestExits(t *testing.T) {
	g := newTiny(t, 1)
	g.rec.on = func(s string) {
		if s == "out 0x99/1 0x0" {
			g.vm.VCPU(0).Kick()
		}
	}
	code := []byte{
		0xb0, 0x5a, // mov al, 0x5a
		0xe6, 0x10, // out 0x10, al
		0xba, 0x34, 0x12, // mov dx, 0x1234
		0xed,       // in ax, dx
		0xef,       // out dx, ax
		0x66, 0xed, // in eax, dx
		0x66, 0xef, // out dx, eax
		0xbe, 0x00, 0x20, // mov si, 0x2000
		0xb9, 0x03, 0x00, // mov cx, 3
		0xf3, 0x6e, // rep outsb
		0xbf, 0x00, 0x21, // mov di, 0x2100
		0xb9, 0x02, 0x00, // mov cx, 2
		0xf3, 0x66, 0x6d, // rep insd
		0x30, 0xc0, // xor al, al
		0xe6, 0x99, // out 0x99, al: kick
		0xf4, // hlt
	}
	if err := g.mem.WriteAt([]byte("abc"), 0x2000); err != nil {
		t.Fatal(err)
	}
	e, s := g.run(t, 0, code, real())
	if _, ok := e.(hv.Interrupted); !ok {
		t.Fatal(e)
	}
	g.rec.want(t, "out 0x10/1 0x5a", "in 0x1234/2", "out 0x1234/2 0x3344", "in 0x1234/4", "out 0x1234/4 0x11223344",
		"out 0x1234/1 0x61", "out 0x1234/1 0x62", "out 0x1234/1 0x63", "in 0x1234/4", "in 0x1234/4", "out 0x99/1 0x0")
	var b [8]byte
	if err := g.mem.ReadAt(b[:], 0x2100); err != nil || !bytes.Equal(b[:], []byte{0x44, 0x33, 0x22, 0x11, 0x44, 0x33, 0x22, 0x11}) {
		t.Errorf("insd stored % x (%v)", b, err)
	}
	// The access at which it was kicked is complete.
	if want := uint64(0x1000 + len(code) - 1); s.RIP != want {
		t.Errorf("stopped at %#x, want %#x", s.RIP, want)
	}
}

func TestMMIO(t *testing.T) {
	g := newTiny(t, 1)
	g.rec.on = func(s string) {
		if s == "out 0x99/1 0x11" {
			g.vm.VCPU(0).Kick()
		}
	}
	code := []byte{
		0x66, 0xbb, 0x00, 0x00, 0x00, 0xd0, // mov ebx, 0xd0000000
		0x67, 0x8a, 0x03, // mov al, [ebx]
		0x67, 0x88, 0x43, 0x01, // mov [ebx+1], al
		0x67, 0x66, 0x8b, 0x4b, 0x04, // mov ecx, [ebx+4]
		0x67, 0x66, 0x89, 0x4b, 0x08, // mov [ebx+8], ecx
		0x67, 0xc7, 0x43, 0x10, 0xef, 0xbe, // mov word [ebx+0x10], 0xbeef
		0xe6, 0x99,
		0xf4,
	}
	s := real()
	s.DS.Limit, s.DS.Access = 0xffffffff, 0x8093
	if e, _ := g.run(t, 0, code, s); e != (hv.Interrupted{}) {
		t.Fatal(e)
	}
	g.rec.want(t, "read 0xd0000000/1", "write 0xd0000001/1 0x11", "read 0xd0000004/4", "write 0xd0000008/4 0x44332211",
		"write 0xd0000010/2 0xbeef", "out 0x99/1 0x11")
}

func TestTripleFault(t *testing.T) {
	g := newTiny(t, 1)
	s := real()
	s.IDTR.Limit = 0
	// A known place first, then an interrupt without a table.
	e, now := g.run(t, 0, []byte{0xb8, 0x34, 0x12, 0xe6, 0x10, 0x0f, 0x0b}, s)
	x, ok := e.(hv.Shutdown)
	if !ok {
		t.Fatal(e)
	}
	at := &now
	if x.Last != nil {
		at = x.Last
	}
	if at.RIP < 0x1003 || at.RIP > 0x1005 || at.RAX&0xffff != 0x1234 {
		t.Errorf("registers do not tell where:\n%v", at)
	}
}

func TestKickHaltedAndReset(t *testing.T) {
	g := newTiny(t, 2)
	first, err := g.vm.VCPU(1).State()
	if err != nil {
		t.Fatal(err)
	}
	for id := range 2 { // 1 waits for its SIPI, 0 halts: a kick wakes both
		v := g.vm.VCPU(id)
		done := make(chan hv.Exit)
		go func() {
			runtime.LockOSThread()
			if id == 0 {
				if err := errors.Join(g.mem.WriteAt([]byte{0xfa, 0xf4}, 0x1000), v.SetState(real())); err != nil {
					t.Error(err)
				}
			}
			e, err := v.Run(&g.rec)
			if err != nil {
				t.Error(err)
			}
			done <- e
		}()
		select {
		case e := <-done:
			t.Fatalf("vCPU %d left by itself: %v", id, e)
		case <-time.After(100 * time.Millisecond):
		}
		v.Kick()
		if e := <-done; e != (hv.Interrupted{}) {
			t.Fatal(e)
		}
	}
	if err := g.vm.Reset(); err != nil {
		t.Fatal(err)
	}
	for id := range 2 {
		now, err := g.vm.VCPU(id).State()
		if err != nil {
			t.Fatal(err)
		}
		if now != first {
			t.Errorf("vCPU %d after reset:\n%vwant\n%v", id, &now, &first)
		}
	}
}

func TestDoorbell(t *testing.T) {
	g := newTiny(t, 1)
	d, err := g.vm.NewDoorbell(0xd0000010, 2)
	if err != nil {
		t.Fatal(err)
	}
	rung := make(chan error, 2)
	go func() {
		rung <- d.Wait()
		rung <- d.Wait()
	}()
	g.rec.on = func(s string) {
		if s == "out 0x99/1 0x0" {
			g.vm.VCPU(0).Kick()
		}
	}
	code := []byte{0x66, 0xbb, 0x00, 0x00, 0x00, 0xd0, // mov ebx, 0xd0000000
		0x67, 0xc7, 0x43, 0x10, 0x01, 0x00, // mov word [ebx+0x10], 1
		0x30, 0xc0, 0xe6, 0x99, 0xf4}
	s := real()
	s.DS.Limit, s.DS.Access = 0xffffffff, 0x8093
	g.run(t, 0, code, s)
	if err := <-rung; err != nil {
		t.Fatal(err)
	}
	g.rec.want(t, "out 0x99/1 0x0") // the write itself made no exit
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-rung; !errors.Is(err, hv.ErrClosed) {
		t.Fatal(err)
	}
}

// TestInterrupts: an MSI and a line wake a halted vCPU, through the local APIC's
// vector in the real-mode table.
func TestInterrupts(t *testing.T) {
	g := newTiny(t, 1)
	m, err := g.vm.NewMSI()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Signal(); err != nil { // without a message: nothing
		t.Fatal(err)
	}
	if err := m.Set(0xfee00000, 0x40); err != nil {
		t.Fatal(err)
	}
	g.rec.on = func(s string) {
		switch s {
		case "out 0x98/1 0x0": // about to halt
			if err := m.Signal(); err != nil {
				t.Error(err)
			}
		case "out 0x97/1 0x40": // the handler ran
			g.vm.VCPU(0).Kick()
		}
	}
	code := []byte{
		0x66, 0xbb, 0x00, 0x00, 0xe0, 0xfe, // mov ebx, 0xfee00000
		0x67, 0x66, 0xc7, 0x83, 0xf0, 0x00, 0x00, 0x00, 0xff, 0x01, 0x00, 0x00, // mov dword [ebx+0xf0], 0x1ff: enable
		0xfb,       // sti
		0x30, 0xc0, // xor al, al
		0xe6, 0x98, // out 0x98, al
		0xf4,       // hlt
		0xeb, 0xfd, // jmp to hlt
	}
	handler := []byte{0xb0, 0x40, 0xe6, 0x97, 0xcf}
	if err := errors.Join(g.mem.WriteAt(handler, 0x3000), g.mem.WriteAt([]byte{0x00, 0x30, 0, 0}, 0x40*4)); err != nil {
		t.Fatal(err)
	}
	s := real()
	s.DS.Limit, s.DS.Access = 0xffffffff, 0x8093
	if e, _ := g.run(t, 0, code, s); e != (hv.Interrupted{}) {
		t.Fatal(e)
	}
	g.rec.want(t, "out 0x98/1 0x0", "out 0x97/1 0x40")
}

func TestLimits(t *testing.T) {
	b, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, n := range []int{0, -1, hv.MaxVCPUs + 1} {
		if _, err := b.NewVM(hv.Config{VCPUs: n}); !errors.Is(err, hv.ErrLimit) {
			t.Errorf("%d vCPUs: %v", n, err)
		}
	}
	if _, err := openDevice("/dev/null"); !errors.Is(err, hv.ErrUnavailable) {
		t.Error(err)
	}
	if _, err := openDevice("/nonexistent"); !errors.Is(err, hv.ErrUnavailable) {
		t.Error(err)
	}
}
