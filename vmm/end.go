// SPDX-License-Identifier: BSD-2-Clause

package vmm

import (
	"errors"
	"fmt"
	"time"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/virtio/blk"
	vnet "github.com/skepvm/skep/vmm/virtio/net"
)

// Errors of Machine's methods.
var (
	// ErrEnded: the machine has ended (or was never run) and can do no more.
	ErrEnded = errors.New("machine has ended")
	// ErrState: the machine is not in a state in which this can be done.
	ErrState = errors.New("wrong machine state")
)

// State is where a machine is in its life.
type State int32

// The states of a machine.
const (
	Created State = iota // New has returned, Run has not been called
	Running
	Paused
	Ended
)

func (s State) String() string {
	return [...]string{"created", "running", "paused", "ended"}[s]
}

// Cause is why a machine ended.
type Cause int

// The causes of an end.
const (
	// PowerOff: the guest powered itself off.
	PowerOff Cause = iota + 1
	// Killed: Kill was called, or Run's context ended.
	Killed
	// TripleFault: a vCPU could not deliver a fault; the guest has crashed.
	TripleFault
	// Halted: every vCPU halted with interrupts off; nothing can wake the guest.
	Halted
	// Failed: the hypervisor or the VMM could not go on.
	Failed
)

func (c Cause) String() string {
	switch c {
	case PowerOff:
		return "power off"
	case Killed:
		return "killed"
	case TripleFault:
		return "triple fault"
	case Halted:
		return "halted"
	case Failed:
		return "failed"
	}
	return fmt.Sprintf("Cause(%d)", int(c))
}

// End is how a machine ended.
type End struct {
	Cause Cause
	// Detail is the cause in words; it may be empty.
	Detail string
	// VCPU is the processor on which it happened and Registers its state, for
	// TripleFault, Halted and Failed; -1 and nil where there is none. After a
	// triple fault on an AMD processor KVM has already discarded the state: the
	// registers are then those of the vCPU's last exit to the VMM, and Detail
	// says so.
	VCPU      int
	Registers *hv.State
	// Reboots counts the resets in place.
	Reboots int
	// Uptime is the time from Run to the end.
	Uptime time.Duration
}

// String is one line, without the registers.
func (e End) String() string {
	s := e.Cause.String()
	if e.VCPU >= 0 && (e.Cause == TripleFault || e.Cause == Halted || e.Cause == Failed) {
		s += fmt.Sprintf(" on vCPU %d", e.VCPU)
		if e.Registers != nil {
			s += fmt.Sprintf(" at rip %#x", e.Registers.RIP)
		}
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// EventKind says what happened.
type EventKind int

// The kinds of events.
const (
	EventStarted     EventKind = iota + 1 // vCPUs run for the first time
	EventRebooted                         // the machine was reset in place and runs again
	EventPaused                           // by Pause
	EventResumed                          // by Resume
	EventPowerButton                      // the power button was pressed
	EventEnded                            // End is set
)

func (k EventKind) String() string {
	switch k {
	case EventStarted:
		return "started"
	case EventRebooted:
		return "rebooted"
	case EventPaused:
		return "paused"
	case EventResumed:
		return "resumed"
	case EventPowerButton:
		return "power button pressed"
	case EventEnded:
		return "ended"
	}
	return fmt.Sprintf("EventKind(%d)", int(k))
}

// Event is something that happened to a machine.
type Event struct {
	Kind EventKind
	Time time.Time
	// Text says more: who asked for a reset, how it ended. It may be empty.
	Text string
	// End is set with EventEnded.
	End *End
}

// Stats are counters since New.
type Stats struct {
	State   State
	Uptime  time.Duration // since Run, paused time included
	Reboots int
	VCPUs   []VCPUStats
	Disks   []DiskStats
	NICs    []NICStats
}

// VCPUStats counts a vCPU's exits to the VMM.
type VCPUStats struct {
	PortAccesses uint64
	MMIOAccesses uint64
	Kicks        uint64 // returns from the guest that the VMM asked for
}

// DiskStats counts a disk's finished requests as the guest made them.
type DiskStats = blk.Counters

// NICStats counts frames: Rx is towards the guest.
type NICStats = vnet.Counters
