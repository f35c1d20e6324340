// SPDX-License-Identifier: BSD-2-Clause

package vmm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/skepvm/skep/vmm/block"
	"github.com/skepvm/skep/vmm/boot"
	"github.com/skepvm/skep/vmm/hv"
	vnet "github.com/skepvm/skep/vmm/virtio/net"
)

// Limits of a configuration.
const (
	// MinMemory is the least guest memory, in bytes.
	MinMemory = 16 << 20
	// MaxMemory is the most guest memory, in bytes.
	MaxMemory = 16 << 40
	// MaxDisks and MaxNICs bound the numbers of devices; together with the
	// consoles and the random source they must fit on one PCI bus.
	MaxDisks = 12
	MaxNICs  = 8
	// MaxQueues bounds the queues of a disk and the queue pairs of a NIC.
	MaxQueues = 16
)

// ErrConfig is wrapped by every refusal of a Config. The text names the field,
// its value and what would be accepted.
var ErrConfig = errors.New("bad machine configuration")

// Config describes a machine. It is a value: it holds open files, but nothing
// that a kernel must be asked for. New does not change it, but the files and
// backends of Disks and NICs belong to the machine from then on, also if New
// fails: Machine.Close closes them. All else stays the caller's.
type Config struct {
	// Name is the machine's name: 1..64 bytes of [a-zA-Z0-9_.-], not beginning
	// with a dot or dash. bhyve names the machine so in the kernel, and a second
	// one of that name fails with hv.ErrExists. Empty means "skep-PID-" and eight
	// characters that no other has.
	Name string
	// CPUs is the number of vCPUs, 1..hv.MaxVCPUs. 0 means 1.
	CPUs int
	// Topology is what the guest is told of its processors. The zero value is
	// one socket of CPUs single-threaded cores.
	Topology hv.Topology
	// Memory is the guest's RAM in bytes, a multiple of 2 MiB,
	// MinMemory..MaxMemory.
	Memory uint64

	// Boot is what is started: boot.Linux and its kin.
	Boot boot.Source

	// Serial receives what the guest writes to its first serial line (COM1,
	// ttyS0). nil discards it. Write is called from one goroutine of the
	// machine's and may block: the guest's transmitter is then busy, never its
	// vCPU. Input goes through Machine.SerialInput.
	Serial io.Writer
	// Console, if not nil, adds a virtio console (hvc0) of the same kind; its
	// input goes through Machine.ConsoleInput.
	Console io.Writer

	// Disks are virtio block devices in PCI order: the guest sees vda, vdb, …
	Disks []Disk
	// NICs are virtio network devices, in PCI order after the disks.
	NICs []NIC
	// NoRNG leaves out the virtio random source that a machine has by default.
	NoRNG bool

	// Backend is the hypervisor. nil means the host's own: /dev/kvm on Linux,
	// /dev/vmmctl on FreeBSD. A given one is not closed by the machine.
	Backend hv.Backend

	// Events, if not nil, is told of what happens, in order, from the machine's
	// goroutine. It must not call the machine's methods and should return soon.
	Events func(Event)
	// Log receives diagnostics. Guest data is never printed above Debug level.
	// nil discards them.
	Log *slog.Logger
}

// Disk is a virtio block device.
type Disk struct {
	// File is the raw image or block device, open for reading and, unless
	// ReadOnly, for writing.
	File *os.File
	// Backend holds the disk's bytes instead, if not nil; ReadOnly is then its
	// own affair.
	Backend block.Backend
	// ReadOnly refuses the guest's writes, discards and write-zeroes.
	ReadOnly bool
	// Serial is what the guest reads as the disk's serial number, at most 20
	// bytes of printable ASCII. Empty means "skep-vdX".
	Serial string
	// Queues is the number of request queues, 1..MaxQueues; 0 means one for each
	// vCPU, at most 4.
	Queues int
	// NoDiscard hides discard and write-zeroes from the guest.
	NoDiscard bool
}

// NIC is a virtio network device on a tap.
type NIC struct {
	// Tap is the tap's open descriptor, non-blocking, with a vnet header
	// (Linux: IFF_TAP|IFF_NO_PI|IFF_VNET_HDR; FreeBSD: TAPSVNETHDR done by the
	// caller). What the device needs to set on it (offloads, header size) it
	// sets in New.
	Tap *os.File
	// Backend is the wire instead, if not nil.
	Backend vnet.Backend
	// MAC is the guest's address: 6 bytes, unicast, not all zeroes.
	MAC net.HardwareAddr
	// MTU is announced to the guest if not 0: 68..65535.
	MTU int
	// NoOffload hides checksum and segmentation offloads.
	NoOffload bool
}

// GiB and MiB are units for Config.Memory.
const (
	MiB = 1 << 20
	GiB = 1 << 30
)

func badf(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, a...))
}

// withDefaults returns the configuration with every default filled in.
func (c Config) withDefaults() Config {
	if c.Name == "" {
		// The kernel of FreeBSD has one machine of a name, also in one process.
		c.Name = fmt.Sprintf("skep-%d-%s", os.Getpid(), rand.Text()[:8])
	}
	if c.CPUs == 0 {
		c.CPUs = 1
	}
	if c.Topology == (hv.Topology{}) {
		c.Topology = hv.Topology{Sockets: 1, Cores: c.CPUs, Threads: 1}
	}
	disks := make([]Disk, len(c.Disks))
	for i, d := range c.Disks {
		if d.Queues == 0 {
			d.Queues = min(max(c.CPUs, 1), 4)
		}
		if d.Serial == "" {
			d.Serial = fmt.Sprintf("skep-vd%c", 'a'+i)
		}
		disks[i] = d
	}
	c.Disks = disks
	if c.Serial == nil {
		c.Serial = io.Discard
	}
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate tells everything that is wrong with the configuration, as far as that
// can be seen without asking the hypervisor. Every error wraps ErrConfig.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, badf(format, a...)) }
	if !validName(c.Name) {
		bad("Name %q: want 1..64 bytes of [a-zA-Z0-9_.-], not beginning with a dot or dash", c.Name)
	}
	if c.CPUs < 1 || c.CPUs > hv.MaxVCPUs {
		bad("CPUs %d: want 1..%d", c.CPUs, hv.MaxVCPUs)
	}
	if t := c.Topology; t.Sockets < 1 || t.Cores < 1 || t.Threads < 1 || t.Sockets > hv.MaxVCPUs || t.Cores > hv.MaxVCPUs ||
		t.Threads > hv.MaxVCPUs || t.Sockets*t.Cores*t.Threads != c.CPUs {
		bad("Topology %+v: sockets times cores times threads must be %d", t, c.CPUs)
	} else if t.Threads&(t.Threads-1) != 0 || t.Sockets > 1 && t.Cores&(t.Cores-1) != 0 {
		// The APIC id is the vCPU's number, of which CPUID names bit fields.
		bad("Topology %+v: threads, and with several sockets cores too, must be a power of two", t)
	}
	if c.Memory < MinMemory || c.Memory > MaxMemory || c.Memory%(2*MiB) != 0 {
		bad("Memory %d: want a multiple of 2 MiB, %d MiB..%d GiB", c.Memory, MinMemory/MiB, MaxMemory/GiB)
	}
	if c.Boot == nil {
		bad("Boot is missing: give a boot.Linux or another boot.Source")
	}
	if len(c.Disks) > MaxDisks {
		bad("%d disks: at most %d", len(c.Disks), MaxDisks)
	}
	for i, d := range c.Disks {
		if (d.File == nil) == (d.Backend == nil) {
			bad("Disks[%d]: want either a File or a Backend", i)
		}
		if d.Queues < 1 || d.Queues > MaxQueues {
			bad("Disks[%d].Queues %d: want 1..%d", i, d.Queues, MaxQueues)
		}
		if len(d.Serial) > 20 || strings.IndexFunc(d.Serial, func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
			bad("Disks[%d].Serial %q: want at most 20 printable ASCII bytes", i, d.Serial)
		}
	}
	if len(c.NICs) > MaxNICs {
		bad("%d NICs: at most %d", len(c.NICs), MaxNICs)
	}
	for i, n := range c.NICs {
		if (n.Tap == nil) == (n.Backend == nil) {
			bad("NICs[%d]: want either a Tap or a Backend", i)
		}
		if len(n.MAC) != 6 || n.MAC[0]&1 != 0 || string(n.MAC) == "\x00\x00\x00\x00\x00\x00" {
			bad("NICs[%d].MAC %q: want 6 bytes, unicast, not all zeroes", i, n.MAC)
		}
		if n.MTU != 0 && (n.MTU < 68 || n.MTU > 65535) {
			bad("NICs[%d].MTU %d: want 68..65535 or 0", i, n.MTU)
		}
	}
	return errors.Join(errs...)
}

// closeFiles closes what belongs to the machine. What a device has closed before
// is not harmed by it.
func (c Config) closeFiles() {
	for _, d := range c.Disks {
		if d.File != nil {
			_ = d.File.Close()
		}
		if d.Backend != nil {
			_ = d.Backend.Close()
		}
	}
	for _, n := range c.NICs {
		if n.Tap != nil {
			_ = n.Tap.Close()
		}
		if n.Backend != nil {
			_ = n.Backend.Close()
		}
	}
}

func validName(s string) bool {
	if len(s) == 0 || len(s) > 64 || s[0] == '.' || s[0] == '-' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '.' || r == '-')
	}) < 0
}
