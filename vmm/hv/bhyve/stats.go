// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"

	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
)

// Stat is one of the kernel's counters of a vCPU.
type Stat struct {
	Name  string
	Value uint64
}

// maxStats bounds the loop over the kernel's counters.
const maxStats = 1024

// Stats reads the kernel's counters of a vCPU (exits by kind, ticks idle, memory
// resident). The vCPU must be outside Run.
func (vm *VM) Stats(vcpu int) ([]Stat, error) {
	if vcpu < 0 || vcpu >= len(vm.vcpus) {
		return nil, fmt.Errorf("bhyve: machine %q: statistics: no vCPU %d", vm.cfg.Name, vcpu)
	}
	var out []Stat
	for at := 0; at < maxStats; {
		s := abi.Stats{Cpuid: int32(vcpu), Index: int32(at)}
		if err := call(vm.dev, abi.VM_STATS, &s); err != nil {
			return nil, fmt.Errorf("bhyve: machine %q: statistics of vCPU %d: %w", vm.cfg.Name, vcpu, explain(err))
		}
		n := min(int(s.NumEntries)-at, len(s.Statbuf))
		for i := range max(n, 0) {
			d := abi.StatDesc{Index: int32(at + i)}
			if err := call(vm.dev, abi.VM_STAT_DESC, &d); errors.Is(err, syscall.EINVAL) {
				continue // a gap
			} else if err != nil {
				return nil, fmt.Errorf("bhyve: machine %q: name of counter %d: %w", vm.cfg.Name, at+i, explain(err))
			}
			name, _, _ := bytes.Cut(d.Desc[:], []byte{0})
			out = append(out, Stat{string(name), s.Statbuf[i]})
		}
		if n < len(s.Statbuf) {
			break
		}
		at += n
	}
	return out, nil
}
