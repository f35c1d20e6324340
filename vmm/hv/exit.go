// SPDX-License-Identifier: BSD-2-Clause

package hv

import "fmt"

// Exit is why Run returned: one of the types in this file.
type Exit interface {
	fmt.Stringer
	exit()
}

type (
	// Interrupted: the vCPU was kicked. Run it again, or rest.
	Interrupted struct{}

	// Halted: the guest can never run again without a reset (all vCPUs halted
	// with interrupts off), as far as the kernel tells.
	Halted struct{}

	// Shutdown: a triple fault on x86. Whether that is a reset or a crash is
	// for the VMM to say.
	Shutdown struct {
		// Last is set where the kernel has already thrown the faulting state
		// away (KVM on AMD): the general registers and RIP of the vCPU's last
		// exit before. Otherwise State tells the truth.
		Last *State
	}

	// SystemReset and SystemPowerOff: the kernel's own devices asked for it.
	SystemReset    struct{}
	SystemPowerOff struct{}

	// Destroyed: the machine was taken out of the kernel from outside.
	Destroyed struct{}

	// Failed: the hypervisor cannot go on (entry failure, an instruction that
	// it cannot emulate, an exit it does not know). Reason is for people.
	Failed struct {
		Reason string
		// Code and Detail are the kernel's own numbers, for a report.
		Code   uint32
		Detail []uint64
		// Inst is the instruction's bytes where the kernel gave them.
		Inst []byte
	}
)

func (Interrupted) exit()    {}
func (Halted) exit()         {}
func (Shutdown) exit()       {}
func (SystemReset) exit()    {}
func (SystemPowerOff) exit() {}
func (Destroyed) exit()      {}
func (Failed) exit()         {}

func (Interrupted) String() string    { return "interrupted" }
func (Halted) String() string         { return "halted with interrupts off" }
func (Shutdown) String() string       { return "triple fault" }
func (SystemReset) String() string    { return "system reset" }
func (SystemPowerOff) String() string { return "system power off" }
func (Destroyed) String() string      { return "destroyed from outside" }
func (f Failed) String() string {
	s := fmt.Sprintf("hypervisor failure: %s (code %#x", f.Reason, f.Code)
	for _, d := range f.Detail {
		s += fmt.Sprintf(", %#x", d)
	}
	s += ")"
	if len(f.Inst) > 0 {
		s += fmt.Sprintf(", instruction % x", f.Inst)
	}
	return s
}
