// SPDX-License-Identifier: BSD-2-Clause

package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm/hv"
)

// VCPU is a vCPU of KVM's.
type VCPU struct {
	id, fd int
	mem    []byte   // struct kvm_run and what follows it
	run    *runPage // its start
	sync   bool     // the kernel stores the registers there at each exit
	last   kregs    // as of the exit before this one
	tid    atomic.Int64
	pid    int

	mu sync.Mutex // held by Kick while it uses run, and by close while that goes
}

func (vm *VM) newVCPU(b *Backend, id int, cfg hv.Config) (_ *VCPU, err error) {
	fd, err := ioctl(vm.fd, kvmCreateVCPU, uintptr(id))
	if err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	unix.CloseOnExec(fd)
	v := &VCPU{id: id, fd: fd, pid: os.Getpid(), sync: b.cap(capSyncRegs)&syncRegs != 0}
	defer func() {
		if err != nil {
			v.close()
		}
	}()
	if v.mem, err = unix.Mmap(fd, 0, b.mmapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	v.run = page(v.mem)
	if v.sync {
		v.run.ValidRegs = syncRegs
	}
	var khz int
	if b.cap(capGetTSCKHz) != 0 {
		khz, _ = ioctl(fd, kvmGetTSCKHz, 0)
	}
	list := buildCPUID(b.cpuid, guestCPU{
		id: id, topology: cfg.Topology, count: cfg.VCPUs, tscKHz: uint32(max(khz, 0)), tscDeadline: b.cap(capTSCDeadlineTimer) != 0})
	if len(list) > maxCPUIDEntries {
		return nil, fmt.Errorf("CPUID has %d entries, at most %d fit", len(list), maxCPUIDEntries)
	}
	c := &cpuid2{Nent: uint32(len(list))}
	copy(c.Entries[:], list)
	if _, err := ioctlPtr(fd, kvmSetCPUID2, c); err != nil {
		return nil, fmt.Errorf("set CPUID: %w", err)
	}
	// What firmware would have done: fast string operations, and write-back as
	// the default memory type, without which Linux does not use the PAT.
	m := &msrs{Nmsrs: 2}
	m.Entries[0] = msrEntry{Index: msrMiscEnable, Data: 1}
	m.Entries[1] = msrEntry{Index: msrMTRRDefType, Data: mtrrEnable | mtrrWriteBack}
	if n, err := ioctlPtr(fd, kvmSetMSRs, m); err != nil || n != 2 {
		return nil, fmt.Errorf("set MSR %#x: refused (%v)", m.Entries[min(max(n, 0), 1)].Index, err)
	}
	return v, nil
}

const (
	msrMiscEnable  = 0x1a0
	msrMTRRDefType = 0x2ff
	mtrrEnable     = 1 << 11
	mtrrWriteBack  = 6
)

// ID is the vCPU's number and APIC id.
func (v *VCPU) ID() int { return v.id }

func (v *VCPU) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var err error
	if v.mem != nil {
		err = unix.Munmap(v.mem)
		v.mem, v.run = nil, nil
	}
	return errors.Join(err, unix.Close(v.fd))
}

// Kick makes Run return soon. On a vCPU that is closed it does nothing.
func (v *VCPU) Kick() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.run == nil {
		return
	}
	v.run.immediate(true)
	// A signal that finds the thread outside the kernel is the Go runtime's
	// affair; the flag then stops the next entry.
	if tid := v.tid.Load(); tid != 0 {
		_ = unix.Tgkill(v.pid, int(tid), unix.SIGURG)
	}
}

// Run enters the guest until an exit that h cannot answer.
func (v *VCPU) Run(h hv.Handler) (hv.Exit, error) {
	v.tid.Store(int64(unix.Gettid()))
	defer v.tid.Store(0)
	p := v.run
	for {
		if v.sync {
			v.last = p.Regs
		}
		switch e := enter(v.fd); e {
		case 0:
		case unix.EINTR:
			// Cleared before the caller looks why it was kicked, so that a
			// kick after that look stops the next entry.
			if p.isImmediate() {
				p.immediate(false)
				return hv.Interrupted{}, nil
			}
			continue
		case unix.EAGAIN:
			// A waiting vCPU got its INIT or SIPI.
			continue
		case unix.EFAULT:
			return hv.Failed{Reason: "guest memory cannot be accessed by the host (out of memory?)", Code: uint32(e)}, nil
		default:
			return nil, fmt.Errorf("kvm: vCPU %d: run: %w", v.id, e)
		}
		switch p.ExitReason {
		case exitIO:
			if err := v.port(h, view[runIO](p)); err != nil {
				return nil, err
			}
		case exitMMIO:
			v.mmio(h, view[runMMIO](p))
		case exitHLT, exitIRQWindowOpen, exitIntr:
			// With the kernel's interrupt controllers none of these means
			// anything but that the vCPU came out.
		default:
			return v.leave(p)
		}
	}
}

// port answers an access to a port: Count of them, for a string instruction.
func (v *VCPU) port(h hv.Handler, io *runIO) error {
	size, n, off := int(io.Size), int(io.Count), io.DataOffset
	if off > uint64(len(v.mem)) || uint64(size)*uint64(n) > uint64(len(v.mem))-off {
		return fmt.Errorf("kvm: vCPU %d: port %#x: the kernel's data lie outside its page", v.id, io.Port)
	}
	d := v.mem[off:][:size*n]
	for ; len(d) >= size && len(d) > 0; d = d[size:] {
		if io.Direction == exitIOOut {
			switch size {
			case 1:
				h.PortWrite(io.Port, 1, uint32(d[0]))
			case 2:
				h.PortWrite(io.Port, 2, uint32(binary.LittleEndian.Uint16(d)))
			case 4:
				h.PortWrite(io.Port, 4, binary.LittleEndian.Uint32(d))
			}
			continue
		}
		switch x := h.PortRead(io.Port, size); size {
		case 1:
			d[0] = byte(x)
		case 2:
			binary.LittleEndian.PutUint16(d, uint16(x))
		case 4:
			binary.LittleEndian.PutUint32(d, x)
		}
	}
	return nil
}

// mmio answers an access to memory that is not RAM. The kernel splits what is
// longer than 8 bytes, but lengths that are no power of two do occur.
func (v *VCPU) mmio(h hv.Handler, m *runMMIO) {
	n := min(int(m.Len), len(m.Data))
	for off := 0; off < n; {
		size := 8
		for size > n-off {
			size /= 2
		}
		gpa, d := m.PhysAddr+uint64(off), m.Data[off:off+size]
		if m.IsWrite != 0 {
			h.MMIOWrite(gpa, size, little(d))
		} else {
			putLittle(d, h.MMIORead(gpa, size))
		}
		off += size
	}
}

func little(d []byte) (x uint64) {
	for i := len(d) - 1; i >= 0; i-- {
		x = x<<8 | uint64(d[i])
	}
	return x
}

func putLittle(d []byte, x uint64) {
	for i := range d {
		d[i] = byte(x >> (8 * i))
	}
}

// leave turns an exit that no handler answers into a value.
func (v *VCPU) leave(p *runPage) (hv.Exit, error) {
	switch p.ExitReason {
	case exitShutdown:
		s := hv.Shutdown{}
		if now, err := v.State(); v.sync && err == nil && now.RIP == 0xfff0 && now.CS.Base == 0xffff0000 {
			// AMD: KVM has reset the vCPU, as the processor's state is void.
			s.Last = v.last.state()
		}
		return s, nil
	case exitFailEntry:
		f := view[runFailEntry](p)
		return hv.Failed{Reason: "the processor refuses to enter the guest", Code: exitFailEntry, Detail: []uint64{f.Reason, uint64(f.CPU)}}, nil
	case exitInternalError:
		i := view[runInternal](p)
		f := hv.Failed{Reason: "KVM internal error", Code: i.Suberror}
		f.Detail = append(f.Detail, i.Data[:min(i.Ndata, uint32(len(i.Data)))]...)
		if i.Suberror == internalErrorEmulation {
			f.Reason = "KVM cannot emulate an instruction"
			if e := view[runEmulation](p); e.Ndata >= 3 && e.Flags&emulationInsnBytes != 0 {
				f.Detail = nil
				f.Inst = append(f.Inst, e.InsnBytes[:min(int(e.InsnSize), len(e.InsnBytes))]...)
			}
		}
		return f, nil
	case exitSystemEvent:
		switch s := view[runSystemEvent](p); s.Type {
		case systemEventShutdown:
			return hv.SystemPowerOff{}, nil
		case systemEventReset:
			return hv.SystemReset{}, nil
		case systemEventCrash:
			return hv.Failed{Reason: "the guest reports a crash", Code: s.Type}, nil
		default:
			return hv.Failed{Reason: "unknown system event", Code: s.Type}, nil
		}
	case exitUnknown:
		return hv.Failed{Reason: "the processor left the guest for a reason that KVM does not know", Code: uint32(little(p.U[:4])),
			Detail: []uint64{little(p.U[:8])}}, nil
	}
	return hv.Failed{Reason: "unknown KVM exit", Code: p.ExitReason}, nil
}

// State reads the vCPU's registers.
func (v *VCPU) State() (hv.State, error) {
	var r kregs
	var s ksregs
	if _, err := ioctlPtr(v.fd, kvmGetRegs, &r); err != nil {
		return hv.State{}, fmt.Errorf("kvm: vCPU %d: get registers: %w", v.id, err)
	}
	if _, err := ioctlPtr(v.fd, kvmGetSregs, &s); err != nil {
		return hv.State{}, fmt.Errorf("kvm: vCPU %d: get system registers: %w", v.id, err)
	}
	x := *r.state()
	s.to(&x)
	return x, nil
}

// SetState writes them. The local APIC's base and CR8 stay.
func (v *VCPU) SetState(x *hv.State) error {
	var r kregs
	var s ksregs
	if _, err := ioctlPtr(v.fd, kvmGetSregs, &s); err != nil {
		return fmt.Errorf("kvm: vCPU %d: get system registers: %w", v.id, err)
	}
	s.from(x)
	if _, err := ioctlPtr(v.fd, kvmSetSregs, &s); err != nil {
		return fmt.Errorf("kvm: vCPU %d: set system registers: %w", v.id, err)
	}
	r.from(x)
	if _, err := ioctlPtr(v.fd, kvmSetRegs, &r); err != nil {
		return fmt.Errorf("kvm: vCPU %d: set registers: %w", v.id, err)
	}
	return nil
}
