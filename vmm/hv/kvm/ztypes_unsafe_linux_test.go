// SPDX-License-Identifier: BSD-2-Clause

package kvm

import (
	"encoding/json"
	"os"
	"reflect"
	"testing"
	"unsafe"
)

type abiTable struct {
	Structs map[string]struct {
		Size   uintptr
		Fields []struct {
			Name         string
			Offset, Size uintptr
		}
	}
	Constants map[string]uint64
}

func loadABI(t *testing.T) (a abiTable) {
	t.Helper()
	b, err := os.ReadFile("testdata/abi-linux-kvm-amd64.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &a); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestStructs(t *testing.T) {
	abi := loadABI(t)
	type field struct{ off, size uintptr }
	for name, v := range map[string][]any{
		"kvm_userspace_memory_region": {userMemoryRegion{}}, "kvm_regs": {kregs{}}, "kvm_segment": {ksegment{}},
		"kvm_dtable": {kdtable{}}, "kvm_sregs": {ksregs{}}, "kvm_cpuid_entry2": {cpuidEntry{}}, "kvm_msr_entry": {msrEntry{}},
		"kvm_irq_level": {irqLevel{}}, "kvm_irq_routing_entry": {routingEntry{}}, "kvm_irqfd": {irqfd{}}, "kvm_ioeventfd": {ioeventfd{}},
		"kvm_pit_config": {pitConfig{}}, "kvm_irqchip": {irqchip{}}, "kvm_clock_data": {clockData{}}, "kvm_msi": {msi{}},
		"kvm_run": {runPage{}, runIO{}, runMMIO{}, runFailEntry{}, runInternal{}, runEmulation{}, runSystemEvent{}},
	} {
		s, ok := abi.Structs[name]
		if !ok {
			t.Errorf("%s: not in the table", name)
			continue
		}
		if got := reflect.TypeOf(v[0]).Size(); got != s.Size {
			t.Errorf("%s: size %d, want %d", name, got, s.Size)
		}
		got := map[string]field{}
		for i, x := range v {
			base := uintptr(0)
			if i > 0 {
				base = unsafe.Offsetof(runPage{}.U)
			}
			for _, f := range reflect.VisibleFields(reflect.TypeOf(x)) {
				if n := f.Tag.Get("abi"); n != "" {
					got[n] = field{base + f.Offset, f.Type.Size()}
				}
			}
		}
		for _, f := range s.Fields {
			switch name + "." + f.Name {
			case "kvm_run.request_interrupt_window", "kvm_run.immediate_exit", "kvm_run.hw.hardware_exit_reason", "kvm_run.s":
				continue // below
			}
			if g := got[f.Name]; g != (field{f.Offset, f.Size}) {
				t.Errorf("%s.%s: %+v, want %d+%d", name, f.Name, g, f.Offset, f.Size)
			}
			delete(got, f.Name)
		}
		for n := range got {
			t.Errorf("%s.%s: not in the table", name, n)
		}
	}
	// What is bytes here, lists whose header alone the C structure has, and the
	// parts of kvm_run that are not fields of their own.
	run := map[string]field{}
	for _, f := range abi.Structs["kvm_run"].Fields {
		run[f.Name] = field{f.Offset, f.Size}
	}
	for what, x := range map[string][2]uintptr{
		"pit_state2":      {unsafe.Sizeof(pitState2{}), abi.Structs["kvm_pit_state2"].Size},
		"mp_state":        {unsafe.Sizeof(mpState{}), abi.Structs["kvm_mp_state"].Size},
		"lapic_state":     {unsafe.Sizeof(lapicState{}), abi.Structs["kvm_lapic_state"].Size},
		"vcpu_events":     {unsafe.Sizeof(vcpuEvents{}), abi.Structs["kvm_vcpu_events"].Size},
		"debugregs":       {unsafe.Sizeof(debugRegs{}), abi.Structs["kvm_debugregs"].Size},
		"xsave":           {unsafe.Sizeof(xsave{}), abi.Structs["kvm_xsave"].Size},
		"xcrs":            {unsafe.Sizeof(xcrs{}), abi.Structs["kvm_xcrs"].Size},
		"cpuid2":          {unsafe.Offsetof(cpuid2{}.Entries), abi.Structs["kvm_cpuid2"].Size},
		"msrs":            {unsafe.Offsetof(msrs{}.Entries), abi.Structs["kvm_msrs"].Size},
		"msr_list":        {unsafe.Offsetof(msrList{}.Indices), abi.Structs["kvm_msr_list"].Size},
		"routing":         {unsafe.Offsetof(routing{}.Entries), abi.Structs["kvm_irq_routing"].Size},
		"sync regs":       {unsafe.Offsetof(runPage{}.Regs), run["s"].off},
		"immediate_exit":  {1, run["immediate_exit"].off},
		"exit_reason raw": {unsafe.Offsetof(runPage{}.U), run["hw.hardware_exit_reason"].off},
	} {
		if x[0] != x[1] {
			t.Errorf("%s: %d, want %d", what, x[0], x[1])
		}
	}
}

func TestNumbers(t *testing.T) {
	abi := loadABI(t)
	numbers := map[string]uint64{
		"KVM_API_VERSION": apiVersion, "KVM_GET_API_VERSION": kvmGetAPIVersion, "KVM_CREATE_VM": kvmCreateVM,
		"KVM_GET_MSR_INDEX_LIST": kvmGetMSRIndexList, "KVM_CHECK_EXTENSION": kvmCheckExtension,
		"KVM_GET_VCPU_MMAP_SIZE": kvmGetVCPUMmapSize, "KVM_GET_SUPPORTED_CPUID": kvmGetSupportedCPUID,
		"KVM_CREATE_VCPU": kvmCreateVCPU, "KVM_SET_USER_MEMORY_REGION": kvmSetUserMemoryRegion, "KVM_SET_TSS_ADDR": kvmSetTSSAddr,
		"KVM_SET_IDENTITY_MAP_ADDR": kvmSetIdentityMapAddr, "KVM_CREATE_IRQCHIP": kvmCreateIRQChip, "KVM_IRQ_LINE": kvmIRQLine,
		"KVM_GET_IRQCHIP": kvmGetIRQChip, "KVM_SET_IRQCHIP": kvmSetIRQChip, "KVM_SET_GSI_ROUTING": kvmSetGSIRouting,
		"KVM_IRQFD": kvmIRQFD, "KVM_CREATE_PIT2": kvmCreatePIT2, "KVM_IOEVENTFD": kvmIOEventFD, "KVM_SET_CLOCK": kvmSetClock,
		"KVM_GET_CLOCK": kvmGetClock, "KVM_GET_PIT2": kvmGetPIT2, "KVM_SET_PIT2": kvmSetPIT2, "KVM_SIGNAL_MSI": kvmSignalMSI,
		"KVM_RUN": kvmRun, "KVM_GET_REGS": kvmGetRegs, "KVM_SET_REGS": kvmSetRegs, "KVM_GET_SREGS": kvmGetSregs,
		"KVM_SET_SREGS": kvmSetSregs, "KVM_GET_MSRS": kvmGetMSRs, "KVM_SET_MSRS": kvmSetMSRs, "KVM_GET_LAPIC": kvmGetLAPIC,
		"KVM_SET_LAPIC": kvmSetLAPIC, "KVM_SET_CPUID2": kvmSetCPUID2, "KVM_GET_MP_STATE": kvmGetMPState, "KVM_SET_MP_STATE": kvmSetMPState,
		"KVM_GET_VCPU_EVENTS": kvmGetVCPUEvents, "KVM_SET_VCPU_EVENTS": kvmSetVCPUEvents, "KVM_GET_DEBUGREGS": kvmGetDebugRegs,
		"KVM_SET_DEBUGREGS": kvmSetDebugRegs, "KVM_GET_TSC_KHZ": kvmGetTSCKHz, "KVM_GET_XSAVE": kvmGetXSave, "KVM_SET_XSAVE": kvmSetXSave,
		"KVM_GET_XCRS": kvmGetXCRs, "KVM_SET_XCRS": kvmSetXCRs, "KVM_KVMCLOCK_CTRL": kvmKVMClockCtrl,
		"KVM_CAP_IRQCHIP": capIRQChip, "KVM_CAP_USER_MEMORY": capUserMemory, "KVM_CAP_SET_TSS_ADDR": capSetTSSAddr,
		"KVM_CAP_EXT_CPUID": capExtCPUID, "KVM_CAP_NR_VCPUS": capNrVCPUs, "KVM_CAP_MP_STATE": capMPState, "KVM_CAP_IRQ_ROUTING": capIRQRouting,
		"KVM_CAP_IRQFD": capIRQFD, "KVM_CAP_PIT2": capPIT2, "KVM_CAP_IOEVENTFD": capIOEventFD, "KVM_CAP_SET_IDENTITY_MAP_ADDR": capSetIdentityMapAddr,
		"KVM_CAP_ADJUST_CLOCK": capAdjustClock, "KVM_CAP_VCPU_EVENTS": capVCPUEvents, "KVM_CAP_DEBUGREGS": capDebugRegs, "KVM_CAP_XSAVE": capXSave,
		"KVM_CAP_XCRS": capXCRs, "KVM_CAP_GET_TSC_KHZ": capGetTSCKHz, "KVM_CAP_MAX_VCPUS": capMaxVCPUs, "KVM_CAP_TSC_DEADLINE_TIMER": capTSCDeadlineTimer,
		"KVM_CAP_SYNC_REGS": capSyncRegs, "KVM_CAP_KVMCLOCK_CTRL": capKVMClockCtrl, "KVM_CAP_SIGNAL_MSI": capSignalMSI,
		"KVM_CAP_READONLY_MEM": capReadonlyMem, "KVM_CAP_IOEVENTFD_ANY_LENGTH": capIOEventFDAnyLength, "KVM_CAP_IMMEDIATE_EXIT": capImmediateExit,
		"KVM_EXIT_UNKNOWN": exitUnknown, "KVM_EXIT_IO": exitIO, "KVM_EXIT_DEBUG": exitDebug, "KVM_EXIT_HLT": exitHLT, "KVM_EXIT_MMIO": exitMMIO,
		"KVM_EXIT_IRQ_WINDOW_OPEN": exitIRQWindowOpen, "KVM_EXIT_SHUTDOWN": exitShutdown, "KVM_EXIT_FAIL_ENTRY": exitFailEntry,
		"KVM_EXIT_INTR": exitIntr, "KVM_EXIT_INTERNAL_ERROR": exitInternalError, "KVM_EXIT_SYSTEM_EVENT": exitSystemEvent,
		"KVM_EXIT_IO_OUT": exitIOOut, "KVM_INTERNAL_ERROR_EMULATION": internalErrorEmulation,
		"KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES": emulationInsnBytes,
		"KVM_SYSTEM_EVENT_SHUTDOWN":                           systemEventShutdown, "KVM_SYSTEM_EVENT_RESET": systemEventReset, "KVM_SYSTEM_EVENT_CRASH": systemEventCrash,
		"KVM_MEM_READONLY": memReadonly, "KVM_IRQ_ROUTING_IRQCHIP": routingIRQChip, "KVM_IRQ_ROUTING_MSI": routingMSI,
		"KVM_IRQFD_FLAG_DEASSIGN": irqfdDeassign, "KVM_IOEVENTFD_FLAG_DEASSIGN": ioeventfdDeassign, "KVM_IRQCHIP_PIC_MASTER": irqchipPICMaster,
		"KVM_IRQCHIP_PIC_SLAVE": irqchipPICSlave, "KVM_IRQCHIP_IOAPIC": irqchipIOAPIC, "KVM_MP_STATE_RUNNABLE": mpStateRunnable,
		"KVM_MP_STATE_UNINITIALIZED": mpStateUninit, "KVM_PIT_SPEAKER_DUMMY": pitSpeakerDummy,
		"KVM_CPUID_FLAG_SIGNIFCANT_INDEX": cpuidSignificantIdx, "KVM_SYNC_X86_REGS": syncRegs,
	}
	for n, v := range numbers {
		if want, ok := abi.Constants[n]; !ok || v != want {
			t.Errorf("%s = %#x, want %#x (in the table: %v)", n, v, want, ok)
		}
	}
}
