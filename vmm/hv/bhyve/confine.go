// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"fmt"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
)

var _ hv.Confiner = (*VM)(nil)

// runtimeRequests are the requests that a machine needs once its memory is mapped: to
// run, to be interrupted, reset (which maps the ROM again) and looked at. Not
// among them: those that make memory or shape the machine, and those of devices
// passed through.
func runtimeRequests() []uint32 {
	return []uint32{
		abi.VM_RUN, abi.VM_SUSPEND, abi.VM_REINIT, abi.VM_MMAP_MEMSEG, abi.VM_RTC_WRITE,
		abi.VM_ACTIVATE_CPU, abi.VM_SUSPEND_CPU, abi.VM_RESUME_CPU, abi.VM_SET_CAPABILITY, abi.VM_SET_X2APIC_STATE,
		abi.VM_GET_REGISTER, abi.VM_SET_REGISTER, abi.VM_GET_REGISTER_SET, abi.VM_SET_REGISTER_SET,
		abi.VM_GET_SEGMENT_DESCRIPTOR, abi.VM_SET_SEGMENT_DESCRIPTOR,
		abi.VM_GLA2GPA, abi.VM_INJECT_EXCEPTION, abi.VM_RESTART_INSTRUCTION,
		abi.VM_LAPIC_MSI, abi.VM_IOAPIC_ASSERT_IRQ, abi.VM_IOAPIC_DEASSERT_IRQ,
		abi.VM_ISA_ASSERT_IRQ, abi.VM_ISA_DEASSERT_IRQ, abi.VM_ISA_SET_IRQ_TRIGGER,
		abi.VM_STATS, abi.VM_STAT_DESC,
	}
}

// Confine limits the machine's descriptor to what it needs from now on; memory
// stays mapped and cannot be mapped anew. Close does not take the machine out of
// the kernel any more, which needs what Backend.Confine takes away. FreeBSD 16
// does it when the backend is closed or the process ends (not confirmed on a kernel);
// Backend.Remove of another process does it everywhere.
func (vm *VM) Confine() error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.closed {
		return fmt.Errorf("bhyve: confine machine %q: %w", vm.cfg.Name, hv.ErrClosed)
	}
	if err := vm.dev.confine(runtimeRequests()); err != nil {
		return fmt.Errorf("bhyve: confine machine %q: %w", vm.cfg.Name, err)
	}
	vm.bound = true
	return nil
}
