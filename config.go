// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"log/slog"
	"net/netip"
)

// Config is what a Host is opened with. The zero value of every field but
// Store has a good default.
type Config struct {
	// Store is where machines and images live: "dir:/var/lib/skep" or
	// "zfs:tank/skep". One daemon at a time has it open.
	Store string
	// RunDir holds the control sockets of the workers; default /run/skep
	// (Linux) or /var/run/skep (FreeBSD). It is created 0700.
	RunDir string
	// Network is the bridge that machines hang on.
	Network NetworkConfig
	// Catalogue is the path of a file with the images that machines can be made
	// from, as image.LoadCatalogue reads it, and read again when it changes.
	// Images that are warm in the store count too; empty: they alone.
	Catalogue string
	// Flavors are named sizes, offered to callers; nil: DefaultFlavors.
	Flavors []Flavor
	// Worker is the argument vector that starts a worker; nil: this program's
	// own executable. The program must call MaybeWorker first in main.
	Worker []string
	// WorkerUID is the first of 65536 user and group ids that workers run under;
	// default 1885339648. Of a daemon that is root only. On Linux each worker is a
	// user of its own, also where daemons have the same first one, as long as they
	// are in one network namespace. On FreeBSD, where less depends on it, workers of
	// two daemons, or machines without a network, may happen to be one user.
	WorkerUID uint32
	// NoSandbox runs workers without seccomp, namespaces and Capsicum. For
	// finding faults in the sandbox itself.
	NoSandbox bool
	// Limits bound what machines may take of this host.
	Limits Limits
	// Logger gets what the host does; nil: slog.Default().
	Logger *slog.Logger
}

// NetworkConfig describes the bridge, its network and who hands out what.
type NetworkConfig struct {
	// Bridge is the interface's name; default skep0. It is created if missing.
	Bridge string
	// Address is the host's own on the bridge and the machines' gateway, with
	// the network's length; default 10.77.0.1/24.
	Address netip.Prefix
	// First and Last bound the addresses handed out; default: the whole network
	// without its first and last address and the host's own.
	First, Last netip.Addr
	// DNS servers that guests are told; default none.
	DNS []netip.Addr
	// MTU of the bridge and the machines; default 1500.
	MTU int
	// External: the operator made and addressed the bridge; only taps are added.
	External bool
	// Disabled: machines get no network. For hosts without permission to make one.
	Disabled bool
}

// Limits bound what machines may take of the host together.
type Limits struct {
	// Memory that all running machines may have, in bytes; default: the host's
	// memory less an eighth.
	Memory int64
	// DiskOvercommit is how many times the store's free space may be promised
	// to machines' disks, which are sparse; default 4.
	DiskOvercommit float64
	// Machines is how many may exist; default 4096.
	Machines int
	// PerNamespace is how many may exist in one namespace; default 255.
	PerNamespace int
	// CPUs that one machine may have, 1 to 16; default 16.
	CPUs int
}

// Flavor is a named size of machine.
type Flavor struct {
	Name   string `json:"name"`
	CPUs   int    `json:"cpus"`
	Memory int64  `json:"memory"` // bytes
	Disk   int64  `json:"disk"`   // bytes
}

// DefaultFlavors are offered where the configuration names none.
func DefaultFlavors() []Flavor {
	return []Flavor{
		{Name: "small", CPUs: 1, Memory: 1 * GiB, Disk: 10 * GiB},
		{Name: "medium", CPUs: 2, Memory: 4 * GiB, Disk: 20 * GiB},
		{Name: "large", CPUs: 4, Memory: 8 * GiB, Disk: 40 * GiB},
	}
}
