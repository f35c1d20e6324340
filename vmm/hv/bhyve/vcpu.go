// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/insn"
)

// kickPatience is how long a kicked vCPU may stay in the kernel before unstick
// looks after it.
const kickPatience = 100 * time.Millisecond

// vcpu is hv.VCPU.
//
// A Kick sets the vCPU's debug flag in the kernel (VM_SUSPEND_CPU), which ends
// VM_RUN, also one asleep in HLT, and makes the next one return at once: no kick
// is lost between looking at a flag and entering the kernel.
type vcpu struct {
	vm *VM
	id int

	active atomic.Bool   // in the kernel's set of active CPUs
	kicked atomic.Bool   // Run is to return Interrupted
	wake   chan struct{} // an inactive vCPU waits here for a start or a kick

	start  sync.Mutex
	vector uint64 // address of the first instruction, by a start-up IPI
	begin  bool   // vector is new

	// run is held by whoever runs the vCPU or reads its registers; it guards
	// what follows.
	run       sync.Mutex
	suspended int32 // why, once the kernel has said so; it may not run again
	arg       abi.Run
	exit      abi.Exit
	reg       abi.Register
	env       env
	set       registerSet
}

func newVCPU(vm *VM, id int) *vcpu {
	v := &vcpu{vm: vm, id: id, wake: make(chan struct{}, 1)}
	v.arg = abi.Run{Cpuid: int32(id), Exit: &v.exit}
	v.env.v = v
	return v
}

// ID is the vCPU's number and APIC id.
func (v *vcpu) ID() int { return v.id }

func (v *vcpu) errorf(format string, a ...any) error {
	return fmt.Errorf("bhyve: machine %q: vCPU %d: %w", v.vm.cfg.Name, v.id, fmt.Errorf(format, a...))
}

// powerOn sets capabilities and the reset state. It also makes the kernel know
// the vCPU, which it does at the first request that names it.
func (v *vcpu) powerOn() error {
	v.run.Lock()
	defer v.run.Unlock()
	// HLT must come to the kernel's attention, or an idle guest spins. On Intel
	// a processor starts in real mode only as an unrestricted guest; AMD has
	// nothing else.
	for _, c := range []struct {
		typ  int32
		what string
	}{{abi.VM_CAP_HALT_EXIT, "exit on HLT"}, {abi.VM_CAP_UNRESTRICTED_GUEST, "unrestricted guest"}} {
		arg := abi.Capability{Cpuid: int32(v.id), Captype: c.typ, Capval: 1}
		if err := call(v.vm.dev, abi.VM_SET_CAPABILITY, &arg); err != nil {
			return fmt.Errorf("enable %s: %w: %w", c.what, hv.ErrUnavailable, err)
		}
	}
	// Enabled here, x2APIC mode is on from the first instruction and cannot be
	// left: Linux without interrupt remapping wants to, and faults.
	x := abi.X2apic{Cpuid: int32(v.id), State: 0}
	if err := call(v.vm.dev, abi.VM_SET_X2APIC_STATE, &x); err != nil {
		return fmt.Errorf("disable x2APIC: %w", err)
	}
	return v.reset(0xfff0, 0xf000, 0xffff0000)
}

// activate adds the vCPU to the active ones; Kick works from here on.
func (v *vcpu) activate() error {
	if err := call(v.vm.dev, abi.VM_ACTIVATE_CPU, &abi.ActivateCPU{Vcpuid: int32(v.id)}); err != nil {
		return fmt.Errorf("activate vCPU %d: %w", v.id, explain(err))
	}
	v.active.Store(true)
	return nil
}

// forget is called after a reinitialization, which empties the kernel's sets.
func (v *vcpu) forget() {
	v.run.Lock()
	defer v.run.Unlock()
	v.active.Store(false)
	v.kicked.Store(false)
	v.suspended = abi.VM_SUSPEND_NONE
	v.start.Lock()
	v.begin = false
	v.start.Unlock()
	select {
	case <-v.wake:
	default:
	}
}

// Kick makes Run return.
func (v *vcpu) Kick() {
	v.kicked.Store(true)
	v.nudge()
	v.vm.watch.Reset(kickPatience)
}

// nudge makes Run look at its flags.
func (v *vcpu) nudge() {
	// It fails on a vCPU that is not active, which waits in wake instead, and on
	// a machine that is gone, which Run learns by itself.
	_ = call(v.vm.dev, abi.VM_SUSPEND_CPU, &abi.ActivateCPU{Vcpuid: int32(v.id)})
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// startAt is a start-up IPI from another vCPU.
func (v *vcpu) startAt(address uint64) {
	v.start.Lock()
	v.vector, v.begin = address, true
	v.start.Unlock()
	v.nudge()
}

// takeStart returns a start-up IPI that has come.
func (v *vcpu) takeStart() (address uint64, ok bool) {
	v.start.Lock()
	defer v.start.Unlock()
	ok, v.begin = v.begin, false
	return v.vector, ok
}

// Run runs the vCPU until an exit that the handler cannot answer.
func (v *vcpu) Run(h hv.Handler) (hv.Exit, error) {
	v.run.Lock()
	defer v.run.Unlock()
	if v.vm.isClosed() {
		return nil, v.errorf("run: %w", hv.ErrClosed)
	}
	v.env.h = h
	exit, err := v.loop(h)
	v.env.h = nil
	if err != nil {
		return nil, v.errorf("run: %w", err)
	}
	return exit, nil
}

func (v *vcpu) loop(h hv.Handler) (hv.Exit, error) {
	for {
		if v.suspended != abi.VM_SUSPEND_NONE {
			return v.endOf(), nil
		}
		if err := v.takeUp(); err != nil {
			return nil, err
		}
		if !v.active.Load() {
			if v.kicked.Swap(false) {
				return hv.Interrupted{}, nil
			}
			<-v.wake
			continue
		}
		if err := v.enter(); err != nil {
			switch {
			case errors.Is(err, syscall.ENXIO):
				return hv.Destroyed{}, nil
			case errors.Is(err, syscall.EFAULT):
				// No exit comes with it, so nothing tells which.
				return hv.Failed{Reason: "the guest wrote to read-only memory, or the kernel is out of memory for it", Code: abi.VM_EXITCODE_PAGING}, nil
			}
			return nil, err
		}
		if v.exit.Exitcode == abi.VM_EXITCODE_DEBUG {
			// First out of the debug state, then look: a Kick in between sets
			// it anew.
			v.resume()
			if err := v.takeUp(); err != nil {
				return nil, err
			}
			if v.kicked.Swap(false) {
				return hv.Interrupted{}, nil
			}
			continue
		}
		if exit, err := v.handle(h); exit != nil || err != nil {
			return exit, err
		}
	}
}

// takeUp begins at the address of a start-up IPI if one has come.
func (v *vcpu) takeUp() error {
	address, ok := v.takeStart()
	if !ok {
		return nil
	}
	// Real mode, at the beginning of the page that the IPI named.
	if err := v.reset(0, uint16(address>>4), address); err != nil {
		return err
	}
	if v.active.Load() {
		return nil
	}
	if err := v.activate(); err != nil {
		return err
	}
	if v.kicked.Load() {
		v.nudge() // the kick came when the kernel could not yet take it
	}
	return nil
}

// enter is VM_RUN, repeated when a signal cut it short.
func (v *vcpu) enter() error {
	for {
		err := call(v.vm.dev, abi.VM_RUN, &v.arg)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		return err
	}
}

func (v *vcpu) resume() {
	// EINVAL: it was not in the debug state.
	_ = call(v.vm.dev, abi.VM_RESUME_CPU, &abi.ActivateCPU{Vcpuid: int32(v.id)})
}

// peek enters the kernel without running the guest. The caller holds run.
func (v *vcpu) peek() {
	if v.suspended != abi.VM_SUSPEND_NONE || !v.active.Load() {
		return
	}
	v.nudge()
	if err := v.enter(); err == nil && v.exit.Exitcode == abi.VM_EXITCODE_SUSPENDED {
		v.suspended = v.exit.Suspended()
	}
	// The debug flag stays: the next Run finds it, and no kick behind it.
}

// awaitSuspended runs the vCPU of a suspended machine until it has seen the
// suspension. The caller holds run.
func (v *vcpu) awaitSuspended() error {
	for v.suspended == abi.VM_SUSPEND_NONE {
		if err := v.enter(); err != nil {
			return fmt.Errorf("vCPU %d: wait for suspension: %w", v.id, explain(err))
		}
		switch v.exit.Exitcode {
		case abi.VM_EXITCODE_SUSPENDED:
			v.suspended = v.exit.Suspended()
		case abi.VM_EXITCODE_DEBUG:
			v.resume()
		}
	}
	return nil
}

// endOf translates a suspension.
func (v *vcpu) endOf() hv.Exit {
	switch v.suspended {
	case abi.VM_SUSPEND_RESET:
		return hv.SystemReset{}
	case abi.VM_SUSPEND_POWEROFF:
		return hv.SystemPowerOff{}
	case abi.VM_SUSPEND_HALT:
		return hv.Halted{}
	case abi.VM_SUSPEND_TRIPLEFAULT:
		return hv.Shutdown{}
	case abi.VM_SUSPEND_DESTROY:
		return hv.Destroyed{}
	}
	return hv.Failed{Reason: "unknown suspension", Code: uint32(v.suspended)}
}

// handle answers v.exit. A nil exit means: run again.
func (v *vcpu) handle(h hv.Handler) (hv.Exit, error) {
	e := &v.exit
	switch e.Exitcode {
	case abi.VM_EXITCODE_INOUT:
		return nil, v.inout(h, e.Inout())
	case abi.VM_EXITCODE_INOUT_STR:
		return nil, v.inoutString(e.InoutStr())
	case abi.VM_EXITCODE_INST_EMUL:
		return v.emulate(e.InstEmul())
	case abi.VM_EXITCODE_RDMSR:
		code, _ := e.MSR()
		return nil, v.readMSR(code)
	case abi.VM_EXITCODE_WRMSR:
		return nil, v.writeMSR(e.MSR())
	case abi.VM_EXITCODE_SPINUP_AP:
		id, address := e.SpinupAP()
		// The guest may name a processor that it does not have.
		if id >= 0 && id < len(v.vm.vcpus) && id != v.id {
			v.vm.vcpus[id].startAt(address)
		}
		return nil, nil
	case abi.VM_EXITCODE_SUSPENDED:
		v.suspended = e.Suspended()
		return v.endOf(), nil
	case abi.VM_EXITCODE_BOGUS, abi.VM_EXITCODE_REQIDLE, abi.VM_EXITCODE_PAUSE, abi.VM_EXITCODE_HLT, abi.VM_EXITCODE_MTRAP,
		abi.VM_EXITCODE_IOAPIC_EOI, abi.VM_EXITCODE_RENDEZVOUS:
		return nil, nil
	}
	return v.failed(), nil
}

var exitNames = map[int32]string{
	abi.VM_EXITCODE_VMX:         "VMX entry failed",
	abi.VM_EXITCODE_SVM:         "SVM entry failed",
	abi.VM_EXITCODE_PAGING:      "guest memory could not be paged in",
	abi.VM_EXITCODE_TASK_SWITCH: "hardware task switch, which is not supported",
	abi.VM_EXITCODE_MONITOR:     "MONITOR",
	abi.VM_EXITCODE_MWAIT:       "MWAIT",
	abi.VM_EXITCODE_VMINSN:      "virtualization instruction in the guest",
	abi.VM_EXITCODE_BPT:         "breakpoint",
	abi.VM_EXITCODE_IPI:         "interprocessor interrupt",
	abi.VM_EXITCODE_DB:          "debug exception",
}

func (v *vcpu) failed() hv.Failed {
	reason, ok := exitNames[v.exit.Exitcode]
	if !ok {
		reason = "unknown exit"
	}
	return hv.Failed{Reason: reason, Code: uint32(v.exit.Exitcode), Detail: append([]uint64{v.exit.Rip}, v.exit.U[:3]...)}
}

// inout answers a port access. RIP has advanced.
func (v *vcpu) inout(h hv.Handler, io abi.Inout) error {
	switch io.Bytes {
	case 1, 2, 4:
	default:
		return fmt.Errorf("port access of %d bytes", io.Bytes)
	}
	mask := ^uint32(0) >> (32 - 8*io.Bytes)
	if !io.In {
		h.PortWrite(io.Port, io.Bytes, io.Eax&mask)
		return nil
	}
	val := uint64(h.PortRead(io.Port, io.Bytes) & mask)
	if io.Bytes < 4 { // the rest of RAX stays
		rax, err := v.getReg(abi.VM_REG_GUEST_RAX)
		if err != nil {
			return err
		}
		val |= rax &^ uint64(mask)
	}
	return v.setReg(abi.VM_REG_GUEST_RAX, val)
}

// emulate executes an instruction on a device register.
func (v *vcpu) emulate(e abi.InstEmul) (hv.Exit, error) {
	bits := 16
	switch {
	case e.Paging.CPUMode == abi.CPU_MODE_64BIT:
		bits = 64
	case e.CsD:
		bits = 32
	}
	code := e.Inst[:e.Valid]
	in, err := insn.Decode(code, bits)
	if err == nil && v.exit.InstLength != 0 && int(v.exit.InstLength) != in.Len {
		err = fmt.Errorf("the kernel counts %d bytes, we %d", v.exit.InstLength, in.Len)
	}
	if err != nil {
		return v.failedInst(fmt.Sprintf("access to %#x: %v", e.Gpa, err), code), nil
	}
	v.env.paging = e.Paging
	v.env.bits = bits
	again, err := in.Exec(&v.env, e.Gpa)
	if errors.Is(err, insn.ErrFault) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	switch {
	case v.exit.InstLength != 0 && again:
		return nil, v.restart()
	case v.exit.InstLength == 0 && !again:
		// The kernel does not know the instruction and left RIP where it was.
		return nil, v.setReg(abi.VM_REG_GUEST_RIP, v.exit.Rip+uint64(in.Len))
	}
	return nil, nil
}

func (v *vcpu) failedInst(reason string, code []byte) hv.Failed {
	f := v.failed()
	f.Reason = reason
	f.Inst = append([]byte(nil), code...)
	return f
}

// restart makes the instruction that has just exited run again.
func (v *vcpu) restart() error {
	if err := call(v.vm.dev, abi.VM_RESTART_INSTRUCTION, &abi.ActivateCPU{Vcpuid: int32(v.id)}); err != nil {
		return fmt.Errorf("restart instruction: %w", err)
	}
	return nil
}

func (v *vcpu) getReg(n int32) (uint64, error) {
	v.reg = abi.Register{Cpuid: int32(v.id), Regnum: n}
	if err := call(v.vm.dev, abi.VM_GET_REGISTER, &v.reg); err != nil {
		return 0, fmt.Errorf("read register %d: %w", n, explain(err))
	}
	return v.reg.Regval, nil
}

func (v *vcpu) setReg(n int32, val uint64) error {
	v.reg = abi.Register{Cpuid: int32(v.id), Regnum: n, Regval: val}
	if err := call(v.vm.dev, abi.VM_SET_REGISTER, &v.reg); err != nil {
		return fmt.Errorf("write register %d: %w", n, explain(err))
	}
	return nil
}

// inject raises an exception in the guest in place of the instruction.
func (v *vcpu) inject(vector int32, code uint32) error {
	e := abi.Exception{Cpuid: int32(v.id), Vector: vector, ErrorCode: code, ErrorCodeValid: 1, RestartInstruction: 1}
	if err := call(v.vm.dev, abi.VM_INJECT_EXCEPTION, &e); err != nil {
		return fmt.Errorf("inject exception %d: %w", vector, explain(err))
	}
	return nil
}
