// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
)

// Prefix begins the kernel's name of every machine that this package makes.
const Prefix = "skep-"

// maxName is the longest Config.Name: a memory segment's device node has the
// machine's name, a dot and the segment's.
const maxName = abi.VM_MAX_NAMELEN - len(Prefix) - abi.VM_MAX_SUFFIXLEN - 1

var (
	errNoMachine = errors.New("no such virtual machine")
	errName      = errors.New("name must be bytes of [a-zA-Z0-9_.-]")
)

// Backend is hv.Backend on FreeBSD, with the machines that a crash left.
type Backend struct {
	host host
}

var (
	_ hv.Backend  = (*Backend)(nil)
	_ hv.Confiner = (*Backend)(nil)
)

// Name is "bhyve".
func (*Backend) Name() string { return "bhyve" }

// Confine takes from this process the means to make, open and destroy a machine,
// of which /dev/vmmctl has one for every machine of the host. It stays open,
// because on FreeBSD 16 (not confirmed on a kernel) the machines that were made by
// it end with it.
func (b *Backend) Confine() error {
	if err := b.host.confine(); err != nil {
		return fmt.Errorf("bhyve: confine: %w", err)
	}
	return nil
}

// Close closes the backend, after its machines: on FreeBSD 16 (not confirmed on a
// kernel) it ends those that are open.
func (b *Backend) Close() error { return b.host.close() }

// Machines lists the machines in the kernel that this package made, by the names
// that hv.Config had. Whether one is still served by a process is for the caller
// to know. The daemon knows its machines by name and has no use for the list
// (Remove): it is for whoever looks for what should not be there, as tests do.
func (b *Backend) Machines() ([]string, error) {
	all, err := b.host.names()
	if err != nil {
		return nil, fmt.Errorf("bhyve: list machines: %w", err)
	}
	var ours []string
	for _, n := range all {
		if name, ok := strings.CutPrefix(n, Prefix); ok && name != "" {
			ours = append(ours, name)
		}
	}
	return ours, nil
}

// Remove takes a machine out of the kernel that a process left there. If it runs
// it ends with hv.Destroyed. Removing one that is not there is no error.
func (b *Backend) Remove(name string) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("bhyve: remove machine %q: %w", name, err)
	}
	if err := b.host.destroy(Prefix + name); err != nil && !errors.Is(err, errNoMachine) {
		return fmt.Errorf("bhyve: remove machine %q: %w", name, err)
	}
	return nil
}

func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("name has %d bytes, want 1..%d", len(name), maxName)
	}
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.', c == '-':
		default:
			return errName
		}
	}
	return nil
}

// NewVM makes a machine in the kernel. An empty Config.Name gets a random one.
func (b *Backend) NewVM(cfg hv.Config) (_ hv.VM, err error) {
	if cfg.Name == "" {
		cfg.Name = rand.Text()
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("bhyve: make machine %q: %w", cfg.Name, err)
		}
	}()
	if err := checkName(cfg.Name); err != nil {
		return nil, err
	}
	if cfg.VCPUs < 1 || cfg.VCPUs > hv.MaxVCPUs {
		return nil, fmt.Errorf("%d vCPUs, want 1..%d: %w", cfg.VCPUs, hv.MaxVCPUs, hv.ErrLimit)
	}
	if n := b.host.maxVCPUs(); n > 0 && cfg.VCPUs > n {
		return nil, fmt.Errorf("%d vCPUs, but the kernel allows %d (loader tunable hw.vmm.maxcpu): %w", cfg.VCPUs, n, hv.ErrLimit)
	}
	if cfg.Topology == (hv.Topology{}) {
		cfg.Topology = hv.Topology{Sockets: 1, Cores: cfg.VCPUs, Threads: 1}
	}
	name := Prefix + cfg.Name
	if err := b.host.create(name); err != nil {
		return nil, err
	}
	m, err := b.host.open(name)
	if err != nil {
		return nil, errors.Join(err, b.host.destroy(name))
	}
	vm := newVM(b.host, m, name, cfg)
	if err := vm.setUp(); err != nil {
		return nil, errors.Join(err, vm.Close())
	}
	return vm, nil
}

// explain adds to an errno what it means for the machine.
func explain(err error) error {
	switch {
	case errors.Is(err, syscall.ENXIO):
		return fmt.Errorf("%w (the machine is gone from the kernel)", err)
	case errors.Is(err, syscall.ENOMEM):
		return fmt.Errorf("%w: %w", hv.ErrNoMemory, err)
	}
	return err
}
