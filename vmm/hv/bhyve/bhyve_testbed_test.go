// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && freebsd

package bhyve

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
)

// These tests run small hand-written guests on a real vmm.ko. Each ends in a loop
// around HLT: the kernel goes on behind one when its thread has to yield.

// recorder is a handler that writes down every access. Reads give what answers
// has, or a count.
type recorder struct {
	mu      sync.Mutex
	log     []string
	mem     map[uint64]uint64
	reads   uint32
	onWrite func(port uint16)
}

func (r *recorder) note(format string, a ...any) {
	r.mu.Lock()
	r.log = append(r.log, fmt.Sprintf(format, a...))
	r.mu.Unlock()
}

func (r *recorder) PortRead(port uint16, size int) uint32 {
	r.note("in%d %x", size, port)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	return 0xa1b2c3d0 + r.reads
}

func (r *recorder) PortWrite(port uint16, size int, v uint32) {
	r.note("out%d %x=%x", size, port, v)
	if r.onWrite != nil {
		r.onWrite(port)
	}
}

func (r *recorder) MMIORead(gpa uint64, size int) uint64 {
	r.note("r%d %x", size, gpa)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mem[gpa]
}

func (r *recorder) MMIOWrite(gpa uint64, size int, v uint64) {
	r.note("w%d %x=%x", size, gpa, v)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mem == nil {
		r.mem = map[uint64]uint64{}
	}
	r.mem[gpa] = v
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.log, "; ")
}

func code(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// guest is a machine with 4 MiB of RAM and its code.
type guest struct {
	*VM
	b   *Backend
	ram []byte
}

const guestRAM = 4 << 20

// newGuest makes a guest in a confined machine, as a worker has it: what the
// limits leave out fails in every test.
func newGuest(t *testing.T, vcpus int) *guest {
	t.Helper()
	g := freeGuest(t, vcpus)
	confine(t, g.b, g.VM)
	return g
}

// confine does it, and takes the machine away in the end.
func confine(t *testing.T, b *Backend, vm *VM) {
	t.Helper()
	if err := vm.Confine(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(vm.Close(), b.Remove(vm.cfg.Name)); err != nil {
			t.Error(err)
		}
	})
}

// freeGuest makes a guest in a machine that is not confined.
func freeGuest(t *testing.T, vcpus int) *guest {
	t.Helper()
	b, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	vm, err := b.NewVM(hv.Config{Name: "test-" + strings.ReplaceAll(t.Name(), "/", "-"), VCPUs: vcpus})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vm.Close(); err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	mem, err := vm.MapMemory([]hv.Region{{Base: 0, Size: guestRAM}})
	if err != nil {
		t.Fatal(err)
	}
	return &guest{VM: vm.(*VM), b: b, ram: mem[0]}
}

// flat is 32-bit protected mode without paging.
func flat(rip uint64) *hv.State {
	data := hv.Segment{Selector: 0x10, Limit: 0xffffffff, Access: 0xc093}
	return &hv.State{
		RIP: rip, RSP: 0x7000, RFLAGS: 2, CR0: 0x21,
		CS: hv.Segment{Selector: 8, Limit: 0xffffffff, Access: 0xc09b}, DS: data, ES: data, SS: data, FS: data, GS: data,
		TR: hv.Segment{Limit: 0xffff, Access: 0x8b}, LDTR: hv.Segment{Access: hv.Unusable},
		IDTR: hv.Table{Base: 0x2000, Limit: 0x7ff},
	}
}

// table makes an interrupt gate, and the GDT that it refers to.
func (g *guest) table(vector int, handler uint32) {
	e := g.ram[0x2000+8*vector:]
	binary.LittleEndian.PutUint32(e, 8<<16|handler&0xffff)
	binary.LittleEndian.PutUint32(e[4:], handler&0xffff0000|0x8e00)
	binary.LittleEndian.PutUint64(g.ram[0x2800+8:], 0x00cf9b000000ffff)
	binary.LittleEndian.PutUint64(g.ram[0x2800+16:], 0x00cf93000000ffff)
}

func withTables(s *hv.State) *hv.State {
	s.GDTR = hv.Table{Base: 0x2800, Limit: 0x1f}
	return s
}

func realMode(rip uint64) *hv.State {
	data := hv.Segment{Limit: 0xffff, Access: 0x93}
	return &hv.State{
		RIP: rip, RSP: 0x7000, RFLAGS: 2, CR0: 0x20,
		CS: hv.Segment{Limit: 0xffff, Access: 0x93}, DS: data, ES: data, SS: data, FS: data, GS: data,
		TR: hv.Segment{Limit: 0xffff, Access: 0x8b}, LDTR: hv.Segment{Limit: 0xffff, Access: 0x82},
		GDTR: hv.Table{Limit: 0xffff}, IDTR: hv.Table{Limit: 0xffff},
	}
}

// runAll runs every vCPU on its own thread until one leaves the guest by
// something else than a kick; then all are kicked and waited for.
func (g *guest) runAll(t *testing.T, h hv.Handler, s *hv.State) []hv.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	exits := make([]hv.Exit, len(g.vcpus))
	var wg sync.WaitGroup
	for i := range g.vcpus {
		wg.Go(func() {
			runtime.LockOSThread()
			v := g.VCPU(i)
			if i == 0 && s != nil {
				if err := v.SetState(s); err != nil {
					t.Error(err)
					cancel()
					return
				}
			}
			e, err := v.Run(h)
			if err != nil {
				t.Error(err)
			}
			exits[i] = e
			cancel()
		})
	}
	<-ctx.Done()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Error("the guest did not end")
	}
	for i := range g.vcpus {
		g.VCPU(i).Kick()
	}
	wg.Wait()
	if t.Failed() {
		for i := range g.vcpus {
			s, err := g.VCPU(i).State()
			t.Logf("vCPU %d: %v %v\n%v", i, exits[i], err, &s)
		}
	}
	return exits
}

func (g *guest) load(at int, b []byte) { copy(g.ram[at:], b) }

func TestPorts(t *testing.T) {
	g := newGuest(t, 1)
	// mov eax, 0x12345678; mov dx, 0x3f8; mov al, 'A'; out dx, al; in al, dx;
	// out dx, eax; in ax, dx; out dx, eax; in eax, dx; out dx, eax; hlt
	g.load(0x1000, code(t, `66b878563412 baf803 b041 ee ec 66ef ed 66ef 66ed 66ef f4 ebfd`))
	r := &recorder{}
	exits := g.runAll(t, r, realMode(0x1000))
	want := "out1 3f8=41; in1 3f8; out4 3f8=123456d1; in2 3f8; out4 3f8=1234c3d2; in4 3f8; out4 3f8=a1b2c3d3"
	if r.String() != want {
		t.Errorf("accesses %v\n    want %v", r, want)
	}
	if exits[0] != (hv.Halted{}) {
		t.Errorf("exit %v, want a halt", exits[0])
	}
}

func TestMMIO(t *testing.T) {
	g := newGuest(t, 1)
	const text = `a1000000c0 40 a3040000c0 bb000000c0 830b10 0fb64b01 884b08 83730855 8703
		bf000100c0 b905000000 f3ab 8b7304 c7430c78563412 66c7430e3412 f7430800000080 0fba6b0c05 f4 ebfd`
	g.load(0x1000, code(t, text))
	r := &recorder{mem: map[uint64]uint64{0xc0000000: 0x41, 0xc0000001: 0x7f}}
	exits := g.runAll(t, r, flat(0x1000))
	want := "r4 c0000000; w4 c0000004=42; r4 c0000000; w4 c0000000=51; r1 c0000001; w1 c0000008=7f; r4 c0000008; w4 c0000008=2a; " +
		"r4 c0000000; w4 c0000000=42; w4 c0000100=51; w4 c0000104=51; w4 c0000108=51; w4 c000010c=51; w4 c0000110=51; " +
		"r4 c0000004; w4 c000000c=12345678; w2 c000000e=1234; r4 c0000008; r4 c000000c; w4 c000000c=12345678"
	if r.String() != want {
		t.Errorf("accesses %v\n    want %v", r, want)
	}
	if exits[0] != (hv.Halted{}) {
		t.Errorf("exit %v, want a halt", exits[0])
	}
	s, err := g.VCPU(0).State()
	if err != nil {
		t.Fatal(err)
	}
	if s.RSI != 0x42 || s.RCX != 0 || s.RDI != 0xc0000114 {
		t.Errorf("state\n%v", &s)
	}
}

func TestPortStrings(t *testing.T) {
	g := newGuest(t, 1)
	// cld; mov esi, 0x3000; mov ecx, 3000; mov edx, 0xe9; rep outsb;
	// mov edi, 0x5000; mov ecx, 3; rep insd; hlt
	g.load(0x1000, code(t, `fc be00300000 b9b80b0000 bae9000000 f36e bf00500000 b903000000 f36d f4 ebfd`))
	for i := range 3000 {
		g.ram[0x3000+i] = byte(i)
	}
	r := &recorder{}
	g.runAll(t, r, flat(0x1000))
	if len(r.log) != 3003 || r.log[0] != "out1 e9=0" || r.log[2999] != fmt.Sprintf("out1 e9=%x", byte(2999&0xff)) {
		t.Fatalf("%d accesses", len(r.log))
	}
	for i := range 3 {
		if v := binary.LittleEndian.Uint32(g.ram[0x5000+4*i:]); v != 0xa1b2c3d1+uint32(i) {
			t.Errorf("word %d: %#x", i, v)
		}
	}
}

// Each segment has a base of its own, and a prefix says which one counts.
func TestPortStringSegments(t *testing.T) {
	g := newGuest(t, 1)
	s := realMode(0x1000)
	for i, seg := range []*hv.Segment{&s.DS, &s.ES, &s.SS, &s.FS, &s.GS} {
		seg.Base = uint64(0x20000 + 0x1000*i)
		g.ram[seg.Base+0x123] = byte('a' + i)
	}
	s.CS.Base = 0x30000
	s.RIP = 0x100
	g.ram[0x30123] = 'f'
	// cld; mov dx, 0xe9; then with mov si, 0x123 before each: outsb; es outsb;
	// ss outsb; fs outsb; gs outsb; cs outsb; mov di, 0x200; insb; hlt
	g.load(0x30100, code(t, `eb2e`))
	g.load(0x30130, code(t, `fc bae900 be2301 6e be2301 266e be2301 366e be2301 646e be2301 656e be2301 2e6e bf0002 6c f4 ebfd`))
	r := &recorder{}
	g.runAll(t, r, s)
	if want := "out1 e9=61; out1 e9=62; out1 e9=63; out1 e9=64; out1 e9=65; out1 e9=66; in1 e9"; r.String() != want {
		t.Errorf("accesses %v\n    want %v", r, want)
	}
	if b := g.ram[s.ES.Base+0x200]; b != 0xd1 {
		t.Errorf("INS wrote %#x to ES:DI", b)
	}
}

// An unknown MSR is a general protection fault in the guest.
func TestMSR(t *testing.T) {
	g := newGuest(t, 1)
	g.table(13, 0x3000)
	// mov ecx, 0x606; rdmsr; mov dx, 0xe9; out dx, eax; mov ecx, 0x8b; wrmsr; mov ecx, 0x12345; rdmsr
	g.load(0x1000, code(t, `b906060000 0f32 66bae900 ef b98b000000 0f30 b945230100 0f32 f4 ebfd`))
	// pop eax (the error code); add al, 'G'; out 0xe9, al; pop eax (RIP); out 0xe9, eax; cli; hlt
	g.load(0x3000, code(t, `58 0447 e6e9 58 e7e9 fa f4 ebfd`))
	r := &recorder{}
	exits := g.runAll(t, r, withTables(flat(0x1000)))
	if exits[0] != (hv.Halted{}) {
		t.Errorf("exit %v, want a halt", exits[0])
	}
	if want := "out4 e9=a1003; out1 e9=47; out4 e9=1018"; r.String() != want {
		t.Errorf("accesses %v, want %v", r, want)
	}
}

// A triple fault ends the machine on Intel. FreeBSD's AMD code (svm.c, 14 and 15)
// answers the processor's shutdown with #UD and enters the guest again, for ever:
// there it must be possible to take it out and reset it.
func TestTripleFault(t *testing.T) {
	g := newGuest(t, 1)
	g.load(0x1000, code(t, `0f0b`))
	amd := readSysctl("hw.vmm.svm.features") == nil
	for range 3 {
		v := g.VCPU(0)
		if amd {
			time.AfterFunc(300*time.Millisecond, v.Kick)
		}
		if err := v.SetState(flat(0x1000)); err != nil {
			t.Fatal(err)
		}
		e, err := v.Run(&recorder{})
		if err != nil {
			t.Fatal(err)
		}
		if amd && e != (hv.Interrupted{}) || !amd && e != (hv.Shutdown{}) {
			t.Errorf("exit %v (AMD %v)", e, amd)
		}
		if err := g.Reset(); err != nil {
			t.Fatal(err)
		}
		s, err := v.State()
		if err != nil {
			t.Fatal(err)
		}
		if s.RIP != 0xfff0 || s.CS.Base != 0xffff0000 || s.CS.Selector != 0xf000 || s.RDX != 0xf00 {
			t.Errorf("state after reset\n%v", &s)
		}
	}
}

func TestState(t *testing.T) {
	g := newGuest(t, 1)
	want := *flat(0x1234)
	for i, p := range fields(&want) {
		if i < 16 {
			*p = 0x0101010101010101 * uint64(i+1)
		}
	}
	want.CR3 = 0x5000
	want.GDTR = hv.Table{Base: 0x6000, Limit: 0x1f}
	want.EFER = 0
	if err := g.VCPU(0).SetState(&want); err != nil {
		t.Fatal(err)
	}
	got, err := g.VCPU(0).State()
	if err != nil {
		t.Fatal(err)
	}
	got.EFER = 0 // SVME shows on AMD
	if got.LDTR.Access&hv.Unusable != 0 {
		got.LDTR.Access = hv.Unusable
	}
	if got != want {
		t.Errorf("read back\n%v\nwant\n%v", &got, &want)
	}
}

// The boot vCPU starts the other three, which wait in Run.
func TestSMP(t *testing.T) {
	for _, n := range []int{2, 4} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			g := newGuest(t, n)
			// For each processor: INIT, SIPI to 0x8000 by the local APIC; then wait
			// until the counter at 0x9000 says that all have come.
			var b []byte
			for i := 1; i < n; i++ {
				b = append(b, code(t, fmt.Sprintf("c7051003e0fe000000%02x c7050003e0fe00450000 c7051003e0fe000000%02x c7050003e0fe08460000", i, i))...)
			}
			b = append(b, code(t, fmt.Sprintf("833d0090000000 803d00900000%02x 75f7 b04f e6e9 fa f4 ebfd", n-1))...)
			g.load(0x1000, b)
			// lock inc byte [0x9000]; mov al, 'P'; out 0xe9, al; cli; hlt
			g.load(0x8000, code(t, `f0fe060090 b050 e6e9 fa f4 ebfd`))
			for round := range 3 {
				g.ram[0x9000] = 0
				r := &recorder{}
				exits := g.runAll(t, r, flat(0x1000))
				log := strings.Split(r.String(), "; ")
				slices.Sort(log)
				want := append([]string{"out1 e9=4f"}, slices.Repeat([]string{"out1 e9=50"}, n-1)...)
				if !slices.Equal(log, want) {
					t.Errorf("round %d: accesses %v", round, log)
				}
				for i, e := range exits {
					if e != (hv.Halted{}) {
						t.Errorf("round %d: vCPU %d: %v, want a halt", round, i, e)
					}
				}
				if err := g.Reset(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// A kick reaches a guest that computes and one that sleeps in HLT, well before
// the kernel's tick of a second.
func TestKick(t *testing.T) {
	for name, text := range map[string]string{"busy": "ebfe", "idle": "fb f4 ebfd"} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, 2)
			g.load(0x1000, code(t, text))
			v := g.VCPU(0)
			if err := v.SetState(flat(0x1000)); err != nil {
				t.Fatal(err)
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			v.Kick() // before Run: the next one returns
			var took []time.Duration
			for i := range 20 {
				if i > 0 {
					time.AfterFunc(20*time.Millisecond, v.Kick)
				}
				start := time.Now()
				e, err := v.Run(&recorder{})
				if err != nil || e != (hv.Interrupted{}) {
					t.Fatalf("run: %v, %v", e, err)
				}
				took = append(took, time.Since(start))
			}
			// Half of those that came with the tick would take half of it. One may
			// be late on a host that is short of time.
			slices.Sort(took)
			if median := took[len(took)/2]; median > 400*time.Millisecond {
				t.Errorf("half of the kicks took more than %v", median)
			}
			// One that was never started.
			time.AfterFunc(10*time.Millisecond, g.VCPU(1).Kick)
			if e, err := g.VCPU(1).Run(&recorder{}); err != nil || e != (hv.Interrupted{}) {
				t.Errorf("run of a waiting processor: %v, %v", e, err)
			}
		})
	}
}

// One vCPU meets a suspension while the other has been kicked out and rests.
func TestSuspensionWhileOthersRest(t *testing.T) {
	g := newGuest(t, 2)
	// Start the other, wait for it to come, then spin.
	g.load(0x1000, code(t, `c7051003e0fe00000001 c7050003e0fe00450000 c7051003e0fe00000001 c7050003e0fe08460000
		ebfe`))
	g.load(0x8000, code(t, `fe060090 ebfe`))
	suspended := make(chan hv.Exit, 1)
	go func() {
		runtime.LockOSThread()
		v := g.VCPU(0)
		if err := v.SetState(flat(0x1000)); err != nil {
			t.Error(err)
		}
		e, err := v.Run(&recorder{})
		if err != nil {
			t.Error(err)
		}
		suspended <- e
	}()
	resting := make(chan hv.Exit, 1)
	go func() {
		runtime.LockOSThread()
		e, err := g.VCPU(1).Run(&recorder{})
		if err != nil {
			t.Error(err)
		}
		resting <- e
	}()
	for g.ram[0x9000] == 0 {
		time.Sleep(time.Millisecond)
	}
	g.VCPU(1).Kick()
	if e := <-resting; e != (hv.Interrupted{}) {
		t.Fatalf("kicked: %v", e)
	}
	// What the kernel itself does on a triple fault.
	if err := call(g.dev, abi.VM_SUSPEND, &abi.Suspend{How: abi.VM_SUSPEND_TRIPLEFAULT}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	g.VCPU(0).Kick() // as whoever wants the machine to rest does
	select {
	case e := <-suspended:
		if e != (hv.Shutdown{}) {
			t.Errorf("exit %v, want a triple fault", e)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the suspended vCPU stays in the kernel")
	}
	if err := g.Reset(); err != nil {
		t.Fatal(err)
	}
}

// An MSI and a level line reach the guest's interrupt handlers.
func TestInterrupts(t *testing.T) {
	g := newGuest(t, 1)
	g.table(0x40, 0x3000)
	g.table(0x41, 0x3100)
	// Spurious vector register on; I/O APIC pin 16: vector 0x41, level, low... then tell the host; sti; hlt.
	g.load(0x1000, code(t, `c705f000e0fe ff010000
		c70500 00c0fe 30000000  c70510 00c0fe 41800000
		b052 e6e9 fb f4 ebfd`))
	// mov al, 'M'; out 0xe9, al; mov dword [0xfee000b0], 0 (EOI); iret
	g.load(0x3000, code(t, `b04d e6e9 c705b000e0fe00000000 cf`))
	g.load(0x3100, code(t, `b04c e6e9 c705b000e0fe00000000 cf`))
	m, err := g.NewMSI()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Signal(); err != nil {
		t.Errorf("signal without a message: %v", err)
	}
	if err := m.Set(0xfee00000, 0x40); err != nil {
		t.Fatal(err)
	}
	seen := make(chan byte, 16)
	r := &recorder{}
	h := handlerFunc{r, func(v uint32) {
		if v == 'L' {
			if err := g.SetIRQ(16, false); err != nil {
				t.Error(err)
			}
		}
		seen <- byte(v)
	}}
	s := withTables(flat(0x1000))
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := g.VCPU(0).SetState(s); err != nil {
			t.Error(err)
		}
		if e, err := g.VCPU(0).Run(h); err != nil || e != (hv.Interrupted{}) {
			t.Errorf("run: %v, %v", e, err)
		}
	}()
	expect := func(want byte) {
		t.Helper()
		select {
		case got := <-seen:
			if got != want {
				t.Fatalf("guest says %c, want %c", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no interrupt; want %c", want)
		}
	}
	expect('R')
	for range 50 {
		if err := m.Signal(); err != nil {
			t.Fatal(err)
		}
		expect('M')
		if err := g.SetIRQ(16, true); err != nil {
			t.Fatal(err)
		}
		expect('L')
	}
	g.VCPU(0).Kick()
	<-done
}

type handlerFunc struct {
	*recorder
	f func(uint32)
}

func (h handlerFunc) PortWrite(_ uint16, _ int, v uint32) { h.f(v) }

func TestMachinesAreFoundAndRemoved(t *testing.T) {
	g := newGuest(t, 1)
	if _, err := g.b.NewVM(hv.Config{Name: g.cfg.Name, VCPUs: 1}); !errors.Is(err, hv.ErrExists) {
		t.Errorf("the same name again: %v, want ErrExists", err)
	}
	// Another's machine.
	if err := g.b.host.create("other"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.b.host.destroy("other"); err != nil {
			t.Error(err)
		}
	}()
	names, err := g.b.Machines()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(names, g.cfg.Name) || slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, "other") }) {
		t.Errorf("machines %q", names)
	}
	g.load(0x1000, code(t, "ebfe"))
	if err := g.VCPU(0).SetState(flat(0x1000)); err != nil {
		t.Fatal(err)
	}
	exit := make(chan hv.Exit)
	go func() {
		runtime.LockOSThread()
		e, err := g.VCPU(0).Run(&recorder{})
		if err != nil {
			t.Error(err)
		}
		exit <- e
	}()
	time.Sleep(50 * time.Millisecond)
	if err := g.b.Remove(g.cfg.Name); err != nil {
		t.Fatal(err)
	}
	if e := <-exit; e != (hv.Destroyed{}) {
		t.Errorf("exit %v, want Destroyed", e)
	}
	if err := g.b.Remove(g.cfg.Name); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if e, err := g.VCPU(0).Run(&recorder{}); err != nil || e != (hv.Destroyed{}) {
		t.Errorf("run afterwards: %v, %v", e, err)
	}
}

// ROM: readable and executable, not writable, through a reset.
func TestROM(t *testing.T) {
	b, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() }) // after confine has removed the machine
	vm, err := b.NewVM(hv.Config{VCPUs: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	const romSize = 64 << 10
	mem, err := vm.MapMemory([]hv.Region{{Base: 0, Size: 1 << 20}, {Base: 4<<30 - romSize, Size: romSize, Kind: hv.ROM}, {Base: 4 << 30, Size: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	confine(t, b, vm.(*VM))
	// The reset vector: mov al, 'R'; out 0xe9, al; mov [cs:0], al; cli; hlt
	copy(mem[1][romSize-16:], code(t, `b052 e6e9 2ea20000 fa f4 ebfd`))
	mem[2][5] = 7 // high memory is there
	for range 2 {
		r := &recorder{}
		e, err := vm.VCPU(0).Run(r)
		if err != nil {
			t.Fatal(err)
		}
		// The write ends the guest: the kernel gives no exit for it.
		if f, ok := e.(hv.Failed); !ok || f.Code != abi.VM_EXITCODE_PAGING || r.String() != "out1 e9=52" || mem[1][0] != 0 {
			t.Errorf("%v; accesses %v", e, r)
		}
		if err := vm.Reset(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStats(t *testing.T) {
	g := newGuest(t, 1)
	g.load(0x1000, code(t, "e6e9 e6e9 fa f4 ebfd"))
	g.runAll(t, &recorder{}, flat(0x1000))
	stats, err := g.Stats(0)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(stats, func(s Stat) bool { return strings.Contains(s.Name, "in/out") })
	if i < 0 || stats[i].Value < 2 {
		t.Errorf("counters %v", stats)
	}
}

// Nothing is left of machines that come and go.
func TestManyMachines(t *testing.T) {
	before := openFiles(t)
	for i := range 100 {
		g := freeGuest(t, 1)
		g.load(0x1000, code(t, "e6e9 fa f4 ebfd"))
		if e := g.runAll(t, &recorder{}, flat(0x1000)); e[0] != (hv.Halted{}) {
			t.Fatalf("machine %d: %v", i, e[0])
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		g.b.Close()
	}
	b, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	names, err := b.Machines()
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, t.Name()) }) {
		t.Errorf("left over: %q", names)
	}
	if after := openFiles(t); after > before+1 {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

func openFiles(t *testing.T) int {
	n := 0
	for fd := range 256 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}

// A confined machine's descriptor makes and maps no memory, and shapes no machine.
func TestConfine(t *testing.T) {
	g := freeGuest(t, 1)
	if err := g.Confine(); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"allocate memory":  call(g.dev, abi.VM_ALLOC_MEMSEG, &abi.Memseg{Segid: 1, Len: 1 << 20}),
		"set the topology": call(g.dev, abi.VM_SET_TOPOLOGY, &abi.Topology{Sockets: 1, Cores: 1, Threads: 1}),
		"read the clock":   call(g.dev, abi.VM_RTC_GETTIME, &abi.RTCTime{}),
	} {
		if !errors.Is(err, unix.ENOTCAPABLE) {
			t.Errorf("%s: %v, want ENOTCAPABLE", what, err)
		}
	}
	if _, err := g.dev.mmap(0, guestRAM); !errors.Is(err, unix.ENOTCAPABLE) {
		t.Errorf("map memory: %v, want ENOTCAPABLE", err)
	}
	g.load(0x1000, code(t, "e6e9 fa f4 ebfd"))
	r := &recorder{}
	if e := g.runAll(t, r, flat(0x1000)); e[0] != (hv.Halted{}) || len(r.log) != 1 {
		t.Errorf("%v; accesses %v", e[0], r)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	// The backend makes and destroys no machine, neither this nor another, which is
	// left to who is not confined.
	free, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	if err := g.b.Confine(); err != nil {
		t.Fatal(err)
	}
	if g.b.host.(*kernel).ctl != nil { // on 14 it is capability mode that forbids it
		if _, err := g.b.NewVM(hv.Config{Name: g.cfg.Name + "-2", VCPUs: 1}); !errors.Is(err, unix.ENOTCAPABLE) {
			t.Errorf("another machine: %v, want ENOTCAPABLE", err)
		}
		if err := g.b.Remove(g.cfg.Name); !errors.Is(err, unix.ENOTCAPABLE) {
			t.Errorf("remove the machine: %v, want ENOTCAPABLE", err)
		}
	}
	if names, err := free.Machines(); err != nil || !slices.Contains(names, g.cfg.Name) {
		t.Errorf("machines after its end: %q, %v", names, err)
	}
	if err := free.Remove(g.cfg.Name); err != nil {
		t.Error(err)
	}
	if names, err := free.Machines(); err != nil || slices.Contains(names, g.cfg.Name) {
		t.Errorf("machines after its removal: %q, %v", names, err)
	}
}

func TestLimits(t *testing.T) {
	g := newGuest(t, 1)
	if _, err := g.b.NewVM(hv.Config{Name: "x", VCPUs: hv.MaxVCPUs + 1}); !errors.Is(err, hv.ErrLimit) {
		t.Errorf("%v, want ErrLimit", err)
	}
	if _, err := g.b.NewVM(hv.Config{Name: "a/b", VCPUs: 1}); !errors.Is(err, errName) {
		t.Errorf("%v, want a bad name", err)
	}
	if _, err := g.MapMemory([]hv.Region{{Size: 4096}}); err == nil {
		t.Error("memory was mapped twice")
	}
}

func BenchmarkPortExit(b *testing.B) {
	back, err := Open()
	if err != nil {
		b.Fatal(err)
	}
	defer back.Close()
	vm, err := back.NewVM(hv.Config{VCPUs: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer vm.Close()
	mem, err := vm.MapMemory([]hv.Region{{Size: 1 << 20}})
	if err != nil {
		b.Fatal(err)
	}
	copy(mem[0][0x1000:], []byte{0xe6, 0xe9, 0xeb, 0xfc})
	if err := vm.VCPU(0).SetState(flat(0x1000)); err != nil {
		b.Fatal(err)
	}
	n := 0
	h := handlerFunc{&recorder{}, func(uint32) {
		if n++; n == b.N {
			vm.VCPU(0).Kick()
		}
	}}
	b.ReportAllocs()
	b.ResetTimer()
	if _, err := vm.VCPU(0).Run(h); err != nil {
		b.Fatal(err)
	}
}
