// SPDX-License-Identifier: BSD-2-Clause

//go:build linux

package bed

import (
	"fmt"
	"os"
	"slices"
	"strconv"
)

// A Spec says what testbed is wanted. The zero value of a field means the
// default.
type Spec struct {
	Name     string // instances of different names are different testbeds
	OS       string // linux or freebsd
	ZFS      string // on Linux: none, 2.1 or 2.3; "" is whatever is there, or none
	CPUs     int
	MemoryMB int
}

// Environment variables that complete a Spec.
const (
	NameEnv   = "SKEP_TESTBED"
	ZFSEnv    = "SKEP_ZFS"
	MemoryEnv = "SKEP_TESTBED_MEMORY" // MiB
	CPUsEnv   = "SKEP_TESTBED_CPUS"
	QEMUEnv   = "SKEP_QEMU"
)

const defaultMemoryMB = 4096

// ZFSVersions are those that a Linux testbed can have.
var ZFSVersions = []string{"none", "2.1", "2.3"}

// Complete fills the empty fields from the environment and the defaults and
// checks them.
func (s *Spec) Complete() error {
	if s.Name == "" {
		s.Name = os.Getenv(NameEnv)
	}
	if s.Name == "" {
		s.Name = "default"
	}
	if s.OS == "" {
		s.OS = "linux"
	}
	if s.OS != "linux" && s.OS != "freebsd" {
		return fmt.Errorf("a testbed runs linux or freebsd, not %q", s.OS)
	}
	if s.ZFS == "" {
		s.ZFS = os.Getenv(ZFSEnv)
	}
	if s.ZFS != "" && !slices.Contains(ZFSVersions, s.ZFS) {
		return fmt.Errorf("a testbed has OpenZFS %v, not %q", ZFSVersions, s.ZFS)
	}
	// Emulated, one: see emulation.
	cpus := 1
	if kvm, _ := trueKVM(); kvm {
		cpus = 2
	}
	var err error
	if s.CPUs, err = number(s.CPUs, CPUsEnv, cpus, 1, 64); err != nil {
		return err
	}
	s.MemoryMB, err = number(s.MemoryMB, MemoryEnv, defaultMemoryMB, 512, 1<<20)
	return err
}

func number(set int, env string, def, low, high int) (int, error) {
	if set == 0 {
		set = def
		if v := os.Getenv(env); v != "" {
			n, err := strconv.Atoi(v)
			if err != nil {
				return 0, fmt.Errorf("%s=%q is not a number", env, v)
			}
			set = n
		}
	}
	if set < low || set > high {
		return 0, fmt.Errorf("%s: %d is not between %d and %d", env, set, low, high)
	}
	return set, nil
}

// zfs returns the version, spelled out.
func (s *Spec) zfs() string {
	if s.ZFS == "" {
		return "none"
	}
	return s.ZFS
}
