// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"net"
	"net/netip"
)

// LocalNamespace is where machines live whose caller named no namespace.
const LocalNamespace = "local"

// MachineSpec says what machine is wanted. It is a value: anyone may build,
// compare and store it; Validate checks it once, where it enters.
type MachineSpec struct {
	// Namespace separates callers: the same name in two of them is two
	// machines. 1 to 64 of a-z 0-9 _ -; default LocalNamespace.
	Namespace string `json:"namespace"`
	// Name: 1 to 40 of a-z 0-9 _ -, beginning with a letter or _.
	Name string `json:"name"`
	// Image is a name in the catalogue.
	Image string `json:"image"`
	// CPUs: 1 to 16; default 1.
	CPUs int `json:"cpus"`
	// Memory in bytes, a whole number of 2 MiB, at least 64 MiB; default 1 GiB.
	Memory int64 `json:"memory"`
	// Disk in bytes; default the image's own size or 10 GiB, whichever is more.
	// Rounded up to a whole MiB.
	Disk int64 `json:"disk"`

	// Keys are SSH public keys in the form of authorized_keys, for User.
	Keys []string `json:"keys,omitempty"`
	// User to make and give Keys to; default the image's own.
	User string `json:"user,omitempty"`
	// Hostname; default Name with _ as -.
	Hostname string `json:"hostname,omitempty"`
	// Packages to install at first boot.
	Packages []string `json:"packages,omitempty"`
	// RunCommands run at the end of first boot, each by the guest's shell.
	RunCommands []string `json:"run_commands,omitempty"`
	// UserData is a whole cloud-init user-data file, given to the guest as it
	// is; Keys, User, Packages and RunCommands must then be empty.
	UserData []byte `json:"user_data,omitempty"`
	// VendorData is handed on as it is.
	VendorData []byte `json:"vendor_data,omitempty"`

	// Address asks for this one of the host's network; invalid: any free one.
	Address netip.Addr `json:"address"`
	// MAC asks for this address; nil: made from the machine's ID.
	MAC net.HardwareAddr `json:"mac,omitempty"`

	// Autostart starts the machine again when the host has restarted.
	Autostart bool `json:"autostart,omitempty"`
	// Stopped: Create makes the machine and leaves it stopped.
	Stopped bool `json:"stopped,omitempty"`
	// Labels are the caller's own and mean nothing to skep: at most 32, keys to
	// 64 bytes, values to 1024.
	Labels map[string]string `json:"labels,omitempty"`
}
