// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
)

func yield() { runtime.Gosched() }

// accesses is a handler that writes down what it is asked.
type accesses struct {
	mu  sync.Mutex
	log []string
}

func (a *accesses) note(format string, v ...any) {
	a.mu.Lock()
	a.log = append(a.log, fmt.Sprintf(format, v...))
	a.mu.Unlock()
}
func (a *accesses) PortRead(port uint16, size int) uint32 {
	a.note("in%d %x", size, port)
	return 0x89abcdef
}
func (a *accesses) PortWrite(port uint16, size int, v uint32) { a.note("out%d %x=%x", size, port, v) }
func (a *accesses) MMIORead(gpa uint64, size int) uint64 {
	a.note("r%d %x", size, gpa)
	return 0xfedcba9876543210
}
func (a *accesses) MMIOWrite(gpa uint64, size int, v uint64) { a.note("w%d %x=%x", size, gpa, v) }
func (a *accesses) String() string                           { return strings.Join(a.log, "; ") }

func newTestVM(t *testing.T, h *fakeHost, vcpus int) (*VM, *fakeMachine) {
	t.Helper()
	vm, err := (&Backend{host: h}).NewVM(hv.Config{Name: "vm1", VCPUs: vcpus})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vm.Close(); err != nil {
			t.Error(err)
		}
	})
	return vm.(*VM), h.machines["skep-vm1"]
}

// exits answers VM_RUN with one exit after the other, then with a halt of the
// machine.
func exits(list ...abi.Exit) func(*fakeMachine, int) abi.Exit {
	n := 0
	return func(m *fakeMachine, cpu int) abi.Exit {
		if n < len(list) {
			n++
			return list[n-1]
		}
		return abi.Exit{Exitcode: abi.VM_EXITCODE_SUSPENDED, U: [15]uint64{abi.VM_SUSPEND_HALT}}
	}
}

func inout(port uint16, bytes int, in bool, eax uint32) abi.Exit {
	bits := uint64(bytes)
	if in {
		bits |= 8
	}
	return abi.Exit{Exitcode: abi.VM_EXITCODE_INOUT, InstLength: 1, U: [15]uint64{bits | uint64(port)<<16 | uint64(eax)<<32}}
}

// instEmul is the exit for code at a device register. length 0 is how the kernel
// says that it does not know the instruction.
func instEmul(gpa uint64, length int, code ...byte) abi.Exit {
	e := abi.Exit{Exitcode: abi.VM_EXITCODE_INST_EMUL, InstLength: int32(length), Rip: 0x1000}
	e.U[0] = gpa
	e.U[(56-16)/8] = abi.CPU_MODE_64BIT << 32
	var vie [16]byte
	copy(vie[:15], code)
	vie[15] = byte(len(code))
	for i, b := range vie {
		e.U[(72-16+i)/8] |= uint64(b) << (8 * (i % 8))
	}
	return e
}

func TestRunAnswersExits(t *testing.T) {
	h := newHost()
	h.script = exits(
		inout(0x3f8, 1, false, 0x11223341), inout(0x3f8, 2, true, 0), inout(0xcfc, 4, true, 0),
		instEmul(0xc0000000, 3, 0x8b, 0x53, 0x00), // mov edx, [rbx]
		instEmul(0xc0000004, 0, 0x87, 0x13),       // xchg [rbx], edx: not the kernel's
		instEmul(0xc0000010, 3, 0xf3, 0x48, 0xab), // rep stosq
		abi.Exit{Exitcode: abi.VM_EXITCODE_RDMSR, U: [15]uint64{0x606}},
		abi.Exit{Exitcode: abi.VM_EXITCODE_WRMSR, U: [15]uint64{0x606, 5}},
		abi.Exit{Exitcode: abi.VM_EXITCODE_RDMSR, U: [15]uint64{0x12345}},
		abi.Exit{Exitcode: abi.VM_EXITCODE_BOGUS},
	)
	vm, m := newTestVM(t, h, 1)
	c := m.cpus[0]
	c.regs[abi.VM_REG_GUEST_RAX] = 0x1111111122222222
	c.regs[abi.VM_REG_GUEST_RDI] = 0x5000
	m.tables = map[uint64]uint64{5: 0xc0000}
	var a accesses
	c.regs[abi.VM_REG_GUEST_RCX] = 2
	e, err := vm.VCPU(0).Run(&a)
	if err != nil || e != (hv.Halted{}) {
		t.Fatalf("%v, %v", e, err)
	}
	want := "out1 3f8=41; in2 3f8; in4 cfc; r4 c0000000; r4 c0000004; w4 c0000004=76543210; w8 c0000000=89abcdef; w8 c0000008=89abcdef"
	if a.String() != want {
		t.Errorf("accesses %v\n    want %v", a.String(), want)
	}
	if rip := c.regs[abi.VM_REG_GUEST_RIP]; rip != 0x1002 {
		t.Errorf("RIP %#x after an instruction that the kernel does not know, want 0x1002", rip)
	}
	if c.regs[abi.VM_REG_GUEST_RDI] != 0x5010 || c.regs[abi.VM_REG_GUEST_RAX] != 0xa1003 || c.regs[abi.VM_REG_GUEST_RDX] != 0 {
		t.Errorf("registers %x", c.regs)
	}
	if len(m.events) != 1 || m.events[0].Vector != 13 || m.events[0].RestartInstruction != 1 {
		t.Errorf("exceptions %+v, want one #GP", m.events)
	}
	if e, err := vm.VCPU(0).Run(&a); err != nil || e != (hv.Halted{}) {
		t.Errorf("again: %v, %v", e, err)
	}
}

func TestNarrowReadsKeepTheRestOfRAX(t *testing.T) {
	h := newHost()
	h.script = exits(inout(1, 1, true, 0x22222222), inout(1, 2, true, 0x22222222))
	vm, m := newTestVM(t, h, 1)
	m.cpus[0].regs[abi.VM_REG_GUEST_RAX] = 0x1111111122222222
	if _, err := vm.VCPU(0).Run(&accesses{}); err != nil {
		t.Fatal(err)
	}
	if got := m.cpus[0].regs[abi.VM_REG_GUEST_RAX]; got != 0x111111112222cdef {
		t.Errorf("RAX %#x", got)
	}
}

func TestWhatCannotGoOn(t *testing.T) {
	for _, tt := range []struct {
		exit abi.Exit
		want string
	}{
		{instEmul(0xc0000000, 2, 0x0f, 0x05), "not known"},
		{instEmul(0xc0000000, 0), "truncated"},
		{instEmul(0xc0000000, 5, 0x89, 0x0b), "the kernel counts 5 bytes, we 2"},
		{abi.Exit{Exitcode: abi.VM_EXITCODE_SVM, U: [15]uint64{0xffff}}, "SVM entry failed"},
		{abi.Exit{Exitcode: 99}, "unknown exit"},
		{abi.Exit{Exitcode: abi.VM_EXITCODE_SUSPENDED, U: [15]uint64{77}}, "unknown suspension"},
	} {
		h := newHost()
		h.script = exits(tt.exit)
		vm, _ := newTestVM(t, h, 1)
		e, err := vm.VCPU(0).Run(&accesses{})
		if err != nil {
			t.Error(err)
		}
		if f, ok := e.(hv.Failed); !ok || !strings.Contains(f.Reason, tt.want) {
			t.Errorf("exit %d: %v, want %q", tt.exit.Exitcode, e, tt.want)
		}
	}
	for errno, want := range map[syscall.Errno]hv.Exit{
		syscall.ENXIO:  hv.Destroyed{},
		syscall.EFAULT: hv.Failed{Reason: "the guest wrote to read-only memory, or the kernel is out of memory for it", Code: 8},
	} {
		h := newHost()
		vm, _ := newTestVM(t, h, 1)
		h.fail[abi.VM_RUN] = errno
		if e, err := vm.VCPU(0).Run(&accesses{}); err != nil || fmt.Sprint(e) != fmt.Sprint(want) {
			t.Errorf("%v: %v, %v; want %v", errno, e, err, want)
		}
	}
}

// An access of a width or kind that no instruction has ends in an error, not in
// a panic.
func FuzzExits(f *testing.F) {
	f.Add(uint8(abi.VM_EXITCODE_INOUT), uint8(1), []byte{8, 0, 0xf8, 3})
	f.Add(uint8(abi.VM_EXITCODE_INOUT_STR), uint8(2), make([]byte, 104))
	f.Add(uint8(abi.VM_EXITCODE_INST_EMUL), uint8(2), append(make([]byte, 56), 0x89, 0x0b))
	f.Add(uint8(abi.VM_EXITCODE_SPINUP_AP), uint8(0), []byte{1})
	f.Fuzz(func(t *testing.T, code, length uint8, union []byte) {
		e := abi.Exit{Exitcode: int32(code), InstLength: int32(length)}
		for i, b := range union[:min(len(union), 120)] {
			e.U[i/8] |= uint64(b) << (8 * (i % 8))
		}
		h := newHost()
		h.script = exits(e)
		vm, m := newTestVM(t, h, 2)
		m.tables = map[uint64]uint64{0: 0, 1: 0xc0000}
		if _, err := vm.MapMemory([]hv.Region{{Size: 1 << 16}}); err != nil {
			t.Fatal(err)
		}
		_, _ = vm.VCPU(0).Run(&accesses{})
	})
}

func TestPortString(t *testing.T) {
	// rep outsw of 1500 words: more than one exit does.
	exit := abi.Exit{Exitcode: abi.VM_EXITCODE_INOUT_STR, InstLength: 2}
	exit.U[0] = 2 | 16 | 32 | 0xe9<<16
	exit.U[(32-16)/8] = abi.CPU_MODE_64BIT << 32 // paging at 24: cpl 32, mode 36
	exit.U[(64-16)/8] = 0x1000
	exit.U[(72-16)/8] = 1500
	exit.U[(80-16)/8] = 8 | uint64(abi.VM_REG_GUEST_DS)<<32
	h := newHost()
	h.script = exits(exit)
	vm, m := newTestVM(t, h, 1)
	if _, err := vm.MapMemory([]hv.Region{{Size: 1 << 20}}); err != nil {
		t.Fatal(err)
	}
	m.tables = map[uint64]uint64{1: 1, 2: 2}
	var a accesses
	if _, err := vm.VCPU(0).Run(&a); err != nil {
		t.Fatal(err)
	}
	if len(a.log) != maxPortRepeat || m.restarts != 1 {
		t.Errorf("%d accesses, %d restarts", len(a.log), m.restarts)
	}
	if r := m.cpus[0].regs; r[abi.VM_REG_GUEST_RSI] != 0x1000+2*maxPortRepeat || r[abi.VM_REG_GUEST_RCX] != 1500-maxPortRepeat {
		t.Errorf("rsi %#x rcx %d", r[abi.VM_REG_GUEST_RSI], r[abi.VM_REG_GUEST_RCX])
	}
	// With the second page gone it stops there, and the registers say where.
	h2 := newHost()
	h2.script = exits(exit)
	vm2, m2 := newTestVM(t, h2, 1)
	if _, err := vm2.MapMemory([]hv.Region{{Size: 1 << 20}}); err != nil {
		t.Fatal(err)
	}
	m2.tables = map[uint64]uint64{}
	if _, err := vm2.VCPU(0).Run(&a); err != nil {
		t.Fatal(err)
	}
	if m2.restarts != 0 || m2.cpus[0].regs[abi.VM_REG_GUEST_RSI] != 0 {
		t.Errorf("a fault at the first access: %d restarts, %x", m2.restarts, m2.cpus[0].regs)
	}
}

// Where the element of a string is: the segment's base counts except in 64-bit
// mode, there that of FS and GS does; the offset has the width of addresses, the
// sum that of the mode.
func TestPortStringAddresses(t *testing.T) {
	const real, protected, compat, long = abi.CPU_MODE_REAL, abi.CPU_MODE_PROTECTED, abi.CPU_MODE_COMPATIBILITY, abi.CPU_MODE_64BIT
	const es, cs, ds, fs, gs = abi.VM_REG_GUEST_ES, abi.VM_REG_GUEST_CS, abi.VM_REG_GUEST_DS, abi.VM_REG_GUEST_FS, abi.VM_REG_GUEST_GS
	for _, c := range []struct {
		mode, size, seg int
		base, index     uint64
		want            uint64 // linear
	}{
		{real, 2, ds, 0x20000, 0x0123, 0x20123},
		{real, 2, fs, 0xffff0, 0x8000, 0x107ff0},
		{real, 2, ds, 0x20000, 0xffff_0123, 0x20123},
		{real, 4, cs, 0x20000, 0x1_2345, 0x32345},
		{protected, 2, es, 0xc0000000, 0x5_0010, 0xc0000010},
		{protected, 4, ds, 0xc0000000, 0x1000, 0xc0001000},
		{protected, 4, gs, 0xffff0000, 0x2_0000, 0x10000},
		{compat, 4, fs, 0x40000000, 0x7_0000_0010, 0x40000010},
		{long, 8, ds, 0x20000, 0xffff_8000_0000_1000, 0xffff_8000_0000_1000},
		{long, 4, es, 0x20000, 0x7_0000_0010, 0x10},
		{long, 8, fs, 0xffff_8000_0000_0000, 0x1000, 0xffff_8000_0000_1000},
		{long, 4, gs, 0xffff_8000_0000_0000, 0x7_0000_1000, 0xffff_8000_0000_1000},
	} {
		exit := abi.Exit{Exitcode: abi.VM_EXITCODE_INOUT_STR, InstLength: 1}
		exit.U[0] = 1 | 16 | 0xe9<<16
		exit.U[(32-16)/8] = uint64(c.mode) << 32
		exit.U[(64-16)/8], exit.U[(72-16)/8] = c.index, 1
		exit.U[(80-16)/8] = uint64(c.size) | uint64(c.seg)<<32
		exit.U[(88-16)/8] = c.base
		h := newHost()
		h.script = exits(exit)
		vm, m := newTestVM(t, h, 1)
		ram, err := vm.MapMemory([]hv.Region{{Size: 1 << 20}})
		if err != nil {
			t.Fatal(err)
		}
		ram[0][0x3000+c.want%pageSize] = 0x5a
		m.tables = map[uint64]uint64{c.want / pageSize: 3}
		var a accesses
		_, err = vm.VCPU(0).Run(&a)
		if a.String() != "out1 e9=5a" || err != nil {
			t.Errorf("%+v: %v, %v", c, &a, err)
		}
	}
	// Without a segment there is no base.
	for _, seg := range []uint64{0, abi.VM_REG_GUEST_ES - 1, abi.VM_REG_GUEST_GS + 1, abi.VM_REG_LAST, 1<<32 - 1} {
		exit := abi.Exit{Exitcode: abi.VM_EXITCODE_INOUT_STR, InstLength: 1}
		exit.U[0] = 1 | 16 | 0xe9<<16
		exit.U[(80-16)/8] = 4 | seg<<32
		h := newHost()
		h.script = exits(exit)
		vm, m := newTestVM(t, h, 1)
		if _, err := vm.MapMemory([]hv.Region{{Size: 1 << 20}}); err != nil {
			t.Fatal(err)
		}
		m.tables = map[uint64]uint64{0: 0}
		var a accesses
		if _, err := vm.VCPU(0).Run(&a); err == nil || a.String() != "" {
			t.Errorf("segment %d: %v, %v", seg, &a, err)
		}
	}
}

// INIT and SIPI: the second vCPU waits in Run without being active, and begins
// where the first one sends it.
func TestStartOfAnotherProcessor(t *testing.T) {
	h := newHost()
	sent := false
	h.script = func(m *fakeMachine, cpu int) abi.Exit {
		m.mu.Lock()
		defer m.mu.Unlock()
		switch {
		case cpu == 0 && !sent:
			sent = true
			return abi.Exit{Exitcode: abi.VM_EXITCODE_SPINUP_AP, U: [15]uint64{1, 0x9a000}}
		case cpu == 1:
			m.suspend = abi.VM_SUSPEND_POWEROFF
		}
		return abi.Exit{Exitcode: abi.VM_EXITCODE_BOGUS}
	}
	vm, m := newTestVM(t, h, 2)
	if m.cpus[1].active {
		t.Error("the second vCPU is active before it was started")
	}
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			if e, err := vm.VCPU(i).Run(&accesses{}); err != nil || e != (hv.SystemPowerOff{}) {
				t.Errorf("vCPU %d: %v, %v", i, e, err)
			}
		})
	}
	wg.Wait()
	if cs := m.cpus[1].segs[abi.VM_REG_GUEST_CS]; cs.Base != 0x9a000 || m.cpus[1].regs[abi.VM_REG_GUEST_CS] != 0x9a00 || m.cpus[1].regs[abi.VM_REG_GUEST_RIP] != 0 {
		t.Errorf("it began at %+v", cs)
	}
	if err := vm.Reset(); err != nil {
		t.Fatal(err)
	}
	if m.reinits != 1 || m.cpus[1].active || !m.cpus[0].active {
		t.Errorf("after reset: %+v", m.cpus[1])
	}
}

func TestKicks(t *testing.T) {
	h := newHost()
	h.script = func(*fakeMachine, int) abi.Exit { return abi.Exit{Exitcode: abi.VM_EXITCODE_BOGUS} }
	vm, _ := newTestVM(t, h, 2)
	for i := range 2 {
		v := vm.VCPU(i)
		v.Kick()
		for n := range 100 {
			if n > 0 {
				time.AfterFunc(time.Duration(n%7)*100*time.Microsecond, v.Kick)
			}
			if e, err := v.Run(&accesses{}); err != nil || e != (hv.Interrupted{}) {
				t.Fatalf("vCPU %d, kick %d: %v, %v", i, n, e, err)
			}
		}
	}
}

// A vCPU that met a suspension waits in the kernel for one that rests here.
func TestUnstick(t *testing.T) {
	h := newHost()
	h.script = func(m *fakeMachine, cpu int) abi.Exit { return abi.Exit{Exitcode: abi.VM_EXITCODE_BOGUS} }
	vm, m := newTestVM(t, h, 2)
	if err := vm.vcpus[1].activate(); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.suspend = abi.VM_SUSPEND_TRIPLEFAULT
	m.mu.Unlock()
	done := make(chan hv.Exit)
	go func() {
		e, err := vm.VCPU(0).Run(&accesses{})
		if err != nil {
			t.Error(err)
		}
		done <- e
	}()
	time.Sleep(10 * time.Millisecond)
	vm.VCPU(0).Kick()
	select {
	case e := <-done:
		if e != (hv.Shutdown{}) {
			t.Errorf("%v", e)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("stuck")
	}
	if e, err := vm.VCPU(1).Run(&accesses{}); err != nil || e != (hv.Shutdown{}) {
		t.Errorf("the other: %v, %v", e, err)
	}
}

func TestMemory(t *testing.T) {
	for _, old := range []bool{false, true} {
		h := newHost()
		h.old = old
		h.script = exits()
		vm, m := newTestVM(t, h, 1)
		rom := uint64(4<<30 - 1<<20)
		mem, err := vm.MapMemory([]hv.Region{{Base: 0, Size: 64 << 20}, {Base: rom, Size: 1 << 20, Kind: hv.ROM}, {Base: 4 << 30, Size: 32 << 20}})
		if err != nil {
			t.Fatal(err)
		}
		if len(mem) != 3 || len(mem[0]) != 64<<20 || len(mem[1]) != 1<<20 || len(mem[2]) != 32<<20 {
			t.Fatalf("maps of %d, %d, %d bytes", len(mem[0]), len(mem[1]), len(mem[2]))
		}
		id := int32(abi.SegBootrom)
		if old {
			id = abi.SegBootrom_14
		}
		if len(m.segs) != 2 || m.segs[0].Len != 96<<20 || m.segs[0].Name != [16]byte{} || m.segs[1].Segid != id || string(m.segs[1].Name[:7]) != "bootrom" {
			t.Errorf("segments %+v", m.segs)
		}
		want := []abi.Memmap{
			{Gpa: 0, Len: 64 << 20, Prot: 7},
			{Gpa: rom, Segid: id, Len: 1 << 20, Prot: 5},
			{Gpa: 4 << 30, Segoff: 64 << 20, Len: 32 << 20, Prot: 7},
		}
		if !slices.Equal(m.maps, want) {
			t.Errorf("maps %+v\nwant %+v", m.maps, want)
		}
		if m.rtc[0x34] != 0 || m.rtc[0x35] != 3 || m.rtc[0x5c] != 2 || m.rtc[0x5b] != 0 {
			t.Errorf("CMOS % x", m.rtc[0x34:0x60])
		}
		if err := vm.Reset(); err != nil {
			t.Fatal(err)
		}
		if len(m.maps) != 3 {
			t.Errorf("the ROM is not mapped again: %+v", m.maps)
		}
	}
	h := newHost()
	vm, _ := newTestVM(t, h, 1)
	for _, r := range []hv.Region{{Base: 1, Size: 4096}, {Size: 100}, {Size: 0}, {Base: ^uint64(0) &^ 4095, Size: 8192}, {Size: 4096, Kind: 9}} {
		if _, err := vm.MapMemory([]hv.Region{r}); err == nil {
			t.Errorf("%+v was mapped", r)
		}
	}
}

func TestInterruptLines(t *testing.T) {
	h := newHost()
	vm, m := newTestVM(t, h, 1)
	for range 3 { // a level that stays as it is, is not told twice
		for _, line := range []int{0, 4, 16} {
			if err := vm.SetIRQ(line, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	if m.lines[2] != 1 || m.lines[4] != 1 || m.lines[16] != 1 || m.lines[0] != 0 {
		t.Errorf("pins %v", m.lines)
	}
	if err := vm.SetIRQ(4, false); err != nil || m.lines[4] != 0 {
		t.Errorf("pins %v, %v", m.lines, err)
	}
	for _, line := range []int{-1, 2, 24} {
		if vm.SetIRQ(line, true) == nil {
			t.Errorf("line %d was accepted", line)
		}
	}
	src, err := vm.NewMSI()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []uint64{0, 0xfee01000, 0x12345678, 1 << 40, 0xfee01004} {
		if addr != 0 {
			if err := src.Set(addr, 0x41); err != nil {
				t.Fatal(err)
			}
		}
		if err := src.Signal(); err != nil {
			t.Errorf("signal to %#x: %v", addr, err)
		}
	}
	if want := []abi.LapicMSI{{Msg: 0x41, Addr: 0xfee01000}, {Msg: 0x41, Addr: 0xfee0100c}}; !slices.Equal(m.msis, want) {
		t.Errorf("messages %+v", m.msis)
	}
}

func TestNothingIsLeftOfAMachineThatFails(t *testing.T) {
	for _, req := range []uint32{abi.VM_GET_MEMSEG, abi.VM_SET_TOPOLOGY, abi.VM_SET_CAPABILITY, abi.VM_SET_REGISTER_SET, abi.VM_ACTIVATE_CPU, abi.VM_RTC_SETTIME} {
		h := newHost()
		h.fail[req] = syscall.ENOMEM
		_, err := (&Backend{host: h}).NewVM(hv.Config{Name: "vm1", VCPUs: 2})
		if !errors.Is(err, syscall.ENOMEM) || !strings.Contains(err.Error(), `make machine "vm1"`) {
			t.Errorf("request %#x: %v", req, err)
		}
		if len(h.machines) != 0 {
			t.Errorf("request %#x: left %v", req, h.machines)
		}
	}
	h := newHost()
	vm, _ := newTestVM(t, h, 1)
	h.fail[abi.VM_ALLOC_MEMSEG] = syscall.ENOMEM
	if _, err := vm.MapMemory([]hv.Region{{Size: 1 << 20}}); !errors.Is(err, hv.ErrNoMemory) {
		t.Errorf("no memory: %v, want ErrNoMemory", err)
	}
}

func TestBackend(t *testing.T) {
	h := newHost()
	h.max = 2
	b := &Backend{host: h}
	if _, err := b.NewVM(hv.Config{Name: "a", VCPUs: 3}); !errors.Is(err, hv.ErrLimit) {
		t.Errorf("3 vCPUs of 2: %v", err)
	}
	for _, name := range []string{"a/b", "a b", strings.Repeat("x", 230)} {
		if _, err := b.NewVM(hv.Config{Name: name, VCPUs: 1}); err == nil {
			t.Errorf("name %q was accepted", name)
		}
		if b.Remove(name) == nil {
			t.Errorf("remove %q was accepted", name)
		}
	}
	vm, m := newTestVM(t, h, 2)
	if m.topology != (abi.Topology{Sockets: 1, Cores: 2, Threads: 1}) {
		t.Errorf("topology %+v", m.topology)
	}
	if err := h.create("other"); err != nil {
		t.Fatal(err)
	}
	if names, err := b.Machines(); err != nil || !slices.Equal(names, []string{"vm1"}) {
		t.Errorf("machines %q, %v", names, err)
	}
	if err := b.Remove("other"); err != nil || h.machines["other"] == nil {
		t.Errorf("somebody else's machine was removed (%v)", err)
	}
	if err := b.Remove("vm1"); err != nil || h.machines["skep-vm1"] != nil {
		t.Errorf("not removed (%v)", err)
	}
	stats, err := vm.Stats(0)
	if err != nil || len(stats) != 70 || stats[69] != (Stat{"counter 69", 69}) {
		t.Errorf("%d counters, %v", len(stats), err)
	}
	if err := errors.Join(vm.Close(), vm.Close()); err != nil {
		t.Error(err)
	}
	if _, err := vm.VCPU(0).Run(&accesses{}); !errors.Is(err, hv.ErrClosed) {
		t.Errorf("run after close: %v", err)
	}
	if _, err := vm.MapMemory(nil); !errors.Is(err, hv.ErrClosed) {
		t.Errorf("map after close: %v", err)
	}
}

func TestStateIsReadAsWritten(t *testing.T) {
	h := newHost()
	vm, _ := newTestVM(t, h, 1)
	var want hv.State
	for i, p := range fields(&want) {
		*p = uint64(i) + 1
	}
	for i, p := range segments(&want) {
		*p = hv.Segment{Selector: uint16(i), Base: uint64(i) << 20, Limit: uint32(i), Access: 0x93}
	}
	want.GDTR, want.IDTR = hv.Table{Base: 0x1000, Limit: 0x1f}, hv.Table{Base: 0x2000, Limit: 0xfff}
	if err := vm.VCPU(0).SetState(&want); err != nil {
		t.Fatal(err)
	}
	if got, err := vm.VCPU(0).State(); err != nil || got != want {
		t.Errorf("%v, %v", &got, err)
	}
}
