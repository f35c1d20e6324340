// SPDX-License-Identifier: BSD-2-Clause

package wire

import (
	"crypto/md5"
	"encoding/hex"
	"time"
)

// Create asks for a machine.
type Create struct {
	Name        string            `json:"name,omitempty" maxLength:"40" doc:"1 to 40 of a-z 0-9 _ -, beginning with a letter or _. Empty: the first free of vm1 to vm255."`
	Image       string            `json:"image" minLength:"1" maxLength:"64" doc:"A name of the catalogue, as GET /api/v2/images lists them."`
	CPUs        int               `json:"cpus,omitempty" minimum:"0" maximum:"16" doc:"vCPUs; default 1."`
	Memory      int64             `json:"memory,omitempty" minimum:"0" doc:"Bytes; default 1 GiB."`
	Disk        int64             `json:"disk,omitempty" minimum:"0" doc:"Bytes; default 10 GiB or the image's own size, whichever is more."`
	Keys        []string          `json:"keys,omitempty" maxItems:"64" doc:"SSH public keys, as in authorized_keys."`
	User        string            `json:"user,omitempty" doc:"The user who gets the keys; default the image's own."`
	Hostname    string            `json:"hostname,omitempty" doc:"Default: the name."`
	Packages    []string          `json:"packages,omitempty" maxItems:"256" doc:"Installed at first boot."`
	RunCommands []string          `json:"run_commands,omitempty" maxItems:"256" doc:"Run at the end of first boot."`
	UserData    string            `json:"user_data,omitempty" doc:"A whole cloud-init user-data file, handed on as it is."`
	Address     string            `json:"address,omitempty" doc:"Asks for this address of the host's network; default any free one."`
	Autostart   bool              `json:"autostart,omitempty" doc:"Start again when the host has restarted."`
	Stopped     bool              `json:"stopped,omitempty" doc:"Make it and leave it stopped."`
	Labels      map[string]string `json:"labels,omitempty" doc:"The caller's own; they mean nothing to skep."`
}

// Machine is a machine as it is at one moment.
type Machine struct {
	ID        string            `json:"id" doc:"32 hexadecimal digits, the machine's own for ever."`
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	State     string            `json:"state" enum:"creating,stopped,starting,running,paused,stopping,destroying,failed"`
	Reason    string            `json:"reason,omitempty" doc:"Why it does not run."`
	Progress  *Progress         `json:"progress,omitempty" doc:"While it is being created, or where that failed."`
	Image     string            `json:"image"`
	CPUs      int               `json:"cpus"`
	Memory    int64             `json:"memory" doc:"Bytes."`
	Disk      int64             `json:"disk" doc:"Bytes."`
	Address   string            `json:"address,omitempty"`
	MAC       string            `json:"mac,omitempty"`
	User      string            `json:"user,omitempty" doc:"Who to log in as."`
	OS        string            `json:"os,omitempty"`
	Emulator  string            `json:"emulator,omitempty"`
	Created   time.Time         `json:"created"`
	Started   *time.Time        `json:"started,omitempty"`
	Stopped   *time.Time        `json:"stopped,omitempty"`
	Resets    int               `json:"resets,omitempty" doc:"Reboots in place of the present run."`
	Autostart bool              `json:"autostart,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
}

// Progress is how far a create has come.
type Progress struct {
	Step    string `json:"step,omitempty" doc:"The last step that is complete: claimed, image, cloned, seeded, wired, started, done."`
	Doing   string `json:"doing,omitempty" doc:"The step under way."`
	Percent int    `json:"percent"`
	Text    string `json:"text" doc:"The same for people."`
	Error   string `json:"error,omitempty"`
}

// Event is something that happened to a machine.
type Event struct {
	Time      time.Time `json:"time"`
	Kind      string    `json:"kind" enum:"state,progress,reset,gone,lost"`
	Namespace string    `json:"namespace,omitempty"`
	Name      string    `json:"name,omitempty"`
	State     string    `json:"state,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Progress  *Progress `json:"progress,omitempty"`
	Lost      int       `json:"lost,omitempty" doc:"How many events are missing here, because the reader was slow."`
}

// Image is an entry of the catalogue.
type Image struct {
	Name        string `json:"name"`
	OS          string `json:"os"`
	Description string `json:"description,omitempty"`
	User        string `json:"user"`
	MinDisk     int64  `json:"min_disk"`
	MinMemory   int64  `json:"min_memory,omitempty"`
	Warm        bool   `json:"warm" doc:"It is on the host: a create need not fetch it."`
}

// WarmProgress is sent while an image is fetched and made ready.
type WarmProgress struct {
	Done  int64  `json:"done" doc:"Bytes."`
	Total int64  `json:"total" doc:"Bytes; 0 if not known."`
	Ready bool   `json:"ready,omitempty" doc:"The image is warm; nothing follows."`
	Error string `json:"error,omitempty" doc:"It failed; nothing follows."`
}

// Snapshot of a machine's disk.
type Snapshot struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Used    int64     `json:"used" doc:"Bytes that it alone holds."`
}

// Host is what a host has.
type Host struct {
	Hostname        string `json:"hostname"`
	OS              string `json:"os"`
	Emulator        string `json:"emulator"`
	Version         string `json:"version"`
	CPUs            int    `json:"cpus"`
	Memory          int64  `json:"memory"`
	MemoryLimit     int64  `json:"memory_limit"`
	MemoryCommitted int64  `json:"memory_committed"`
	DiskFree        int64  `json:"disk_free"`
	DiskPromised    int64  `json:"disk_promised"`
	Machines        int    `json:"machines"`
	Running         int    `json:"running"`
	AddressesFree   int    `json:"addresses_free"`
	Store           string `json:"store"`
}

// Stats are counters of a running machine.
type Stats struct {
	CPUSeconds  float64           `json:"cpu_seconds"`
	RSS         int64             `json:"rss"`
	GuestMemory int64             `json:"guest_memory"`
	DiskUsed    int64             `json:"disk_used"`
	Counters    map[string]uint64 `json:"counters,omitempty"`
}

// Named names a snapshot.
type Named struct {
	Name string `json:"name" minLength:"1" maxLength:"40"`
}

// Clone asks for a new machine made from this one.
type Clone struct {
	Name     string   `json:"name" minLength:"1" maxLength:"40"`
	Snapshot string   `json:"snapshot,omitempty" doc:"Empty: the disk as it is now."`
	Keys     []string `json:"keys,omitempty" maxItems:"64"`
	Hostname string   `json:"hostname,omitempty"`
	Stopped  bool     `json:"stopped,omitempty"`
}

// CID names the namespace of an SSH public key: the MD5 of its exact bytes, in
// 32 hexadecimal digits. It is an identifier, not a secret and not a proof.
func CID(pubkey string) string {
	sum := md5.Sum([]byte(pubkey))
	return hex.EncodeToString(sum[:])
}
