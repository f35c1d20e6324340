// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"fmt"
	"net"
	"net/netip"
	"time"
)

// State of a machine.
type State string

// The states. A machine is created by way of Creating; Failed is what is left
// to look at, in this daemon's memory, after a Create that failed: the machine
// is gone and its name is free.
const (
	StateCreating   State = "creating"
	StateStopped    State = "stopped"
	StateStarting   State = "starting"
	StateRunning    State = "running"
	StatePaused     State = "paused"
	StateStopping   State = "stopping"
	StateDestroying State = "destroying"
	StateFailed     State = "failed"
)

// Step names a stage of Create.
type Step string

// The steps of Create, in order. The last to be worked on, StepStarted or
// StepSeeded, leaves StepDone when it is complete: StepWired and StepStarted are
// skipped where MachineSpec.Stopped is set.
const (
	StepClaimed Step = "claimed" // name, address and room on the host
	StepImage   Step = "image"   // the image is fetched, checked and warm
	StepCloned  Step = "cloned"  // the disk is there
	StepSeeded  Step = "seeded"  // the cloud-init seed is written
	StepWired   Step = "wired"   // the tap is on the bridge
	StepStarted Step = "started" // the worker runs the guest
	StepDone    Step = "done"
)

// Progress is how far Create has come.
type Progress struct {
	Step    Step   `json:"step"`            // the last step that is complete; empty before the first
	Doing   Step   `json:"doing,omitempty"` // the step under way
	Percent int    `json:"percent"`         // of the whole, 0 to 100
	Bytes   int64  `json:"bytes,omitempty"` // of the step under way, where it moves data
	Total   int64  `json:"total,omitempty"` // 0: not known
	Error   string `json:"error,omitempty"` // why Create failed at Doing
}

// String is a line for people: "image: 45 of 300 MiB (23%)".
func (p Progress) String() string {
	switch {
	case p.Error != "":
		return fmt.Sprintf("%s: failed: %s", p.Doing, p.Error)
	case p.Doing != "" && p.Total > 0:
		return fmt.Sprintf("%s: %d of %d MiB (%d%%)", p.Doing, p.Bytes/MiB, p.Total/MiB, p.Percent)
	case p.Step == "":
		return fmt.Sprintf("begun (%d%%)", p.Percent)
	}
	return fmt.Sprintf("%s (%d%%)", p.Step, p.Percent)
}

// Status is a machine as it is at one moment.
type Status struct {
	// ID is the machine's own for ever: 32 hexadecimal digits, the cloud-init
	// instance id and the seed of its MAC.
	ID   string      `json:"id"`
	Spec MachineSpec `json:"spec"`

	State State `json:"state"`
	// Reason says why a machine that is not running is not: "powered off by
	// the guest", "killed", "triple fault: …", "host restarted".
	Reason   string   `json:"reason,omitempty"`
	Progress Progress `json:"progress"`

	Created time.Time `json:"created"`
	Started time.Time `json:"started,omitzero"` // of the present or the last run
	Stopped time.Time `json:"stopped,omitzero"` // of the last run

	// Address with the network's length; Gateway is the host's.
	Address netip.Prefix     `json:"address"`
	Gateway netip.Addr       `json:"gateway"`
	MAC     net.HardwareAddr `json:"mac,omitempty"`
	Tap     string           `json:"tap,omitempty"`

	// User to log in as; OS and Profile are the image's.
	User    string `json:"user,omitempty"`
	OS      string `json:"os,omitempty"`
	Profile string `json:"profile,omitempty"`
	// Emulator is "kvm" or "bhyve".
	Emulator string `json:"emulator,omitempty"`

	// WorkerPID is the process that runs the guest; 0 when there is none.
	WorkerPID int `json:"worker_pid,omitempty"`
	// Resets counts the reboots of the present run.
	Resets int `json:"resets,omitempty"`
}

// Stats are counters of a running machine, since its worker began.
type Stats struct {
	CPUTime     time.Duration `json:"cpu_time"`     // of the worker with its vCPUs
	RSS         int64         `json:"rss"`          // resident memory of the worker, bytes
	GuestMemory int64         `json:"guest_memory"` // as given, bytes
	DiskUsed    int64         `json:"disk_used"`    // allocated in the store, bytes
	// Counters by device and name, as "disk0.read_bytes", "net0.tx_packets".
	Counters map[string]uint64 `json:"counters,omitempty"`
}

// Info is the host as it is at one moment.
type Info struct {
	Hostname        string `json:"hostname"`
	OS              string `json:"os"`       // "linux" or "freebsd"
	Emulator        string `json:"emulator"` // "kvm" or "bhyve"
	CPUs            int    `json:"cpus"`
	Memory          int64  `json:"memory"`           // of the host, bytes
	MemoryLimit     int64  `json:"memory_limit"`     // what machines may have together
	MemoryCommitted int64  `json:"memory_committed"` // what running machines have
	DiskFree        int64  `json:"disk_free"`        // of the store
	DiskPromised    int64  `json:"disk_promised"`    // promised to disks and not yet written
	Machines        int    `json:"machines"`
	Running         int    `json:"running"`
	Addresses       int    `json:"addresses"`      // in the pool
	AddressesFree   int    `json:"addresses_free"` // of them
	Store           string `json:"store"`
}

// Image is one entry of the catalogue.
type Image struct {
	Name        string `json:"name"`
	OS          string `json:"os"`      // "linux", "freebsd"
	Profile     string `json:"profile"` // "debian12"
	Description string `json:"description,omitempty"`
	URL         string `json:"url,omitempty"`
	User        string `json:"user"`     // default login
	MinDisk     int64  `json:"min_disk"` // bytes
	MinMemory   int64  `json:"min_memory,omitempty"`
	Warm        bool   `json:"warm"` // it is in the store: Create need not fetch
}

// Snapshot of a machine's disk.
type Snapshot struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Used    int64     `json:"used"` // bytes that it alone holds
}
