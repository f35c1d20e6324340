// SPDX-License-Identifier: BSD-2-Clause

package abi

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
)

// table is testdata/abi-freebsd15-amd64.json: structures and numbers taken from
// a FreeBSD kernel's debug information and headers.
type table struct {
	Structs map[string]struct {
		Size   uintptr
		Fields []struct {
			Name         string
			Offset, Size uintptr
		}
	}
	Constants map[string]uint64
}

func readTable(t *testing.T) table {
	b, err := os.ReadFile("testdata/abi-freebsd15-amd64.json")
	if err != nil {
		t.Fatal(err)
	}
	var tab table
	if err := json.Unmarshal(b, &tab); err != nil {
		t.Fatal(err)
	}
	return tab
}

// goNames maps a C field to the Go one where the two are not the same word in
// another case.
var goNames = map[string]string{
	"vm_exit": "exit",
}

func TestStructs(t *testing.T) {
	tab := readTable(t)
	for name, v := range map[string]any{
		"vmmctl_vm_create": CtlCreate{}, "vmmctl_vm_destroy": CtlCreate{},
		"vm_memseg": Memseg{}, "vm_memmap": Memmap{}, "vm_register": Register{}, "vm_register_set": RegisterSet{},
		"vm_run": Run{}, "vm_capability": Capability{}, "vm_suspend": Suspend{}, "vm_activate_cpu": ActivateCPU{},
		"vm_cpuset": CPUSet{}, "vm_exception": Exception{}, "vm_lapic_msi": LapicMSI{}, "vm_ioapic_irq": IoapicIRQ{},
		"vm_isa_irq": IsaIRQ{}, "vm_isa_irq_trigger": IsaTrigger{}, "vm_cpu_topology": Topology{}, "vm_x2apic": X2apic{},
		"vm_guest_paging": Paging{}, "vm_gla2gpa": Gla2gpa{}, "vm_rtc_data": RTCData{}, "vm_rtc_time": RTCTime{}, "vm_hpet_cap": HPETCap{},
		"vm_stat_desc": StatDesc{}, "vm_exit": Exit{},
	} {
		typ := reflect.TypeOf(v)
		want, ok := tab.Structs[name]
		if !ok {
			t.Errorf("struct %s is not in the table", name)
			continue
		}
		if typ.Size() != want.Size {
			t.Errorf("%s: %d bytes, want %d", name, typ.Size(), want.Size)
		}
		if name == "vm_exit" {
			continue // the union is read by methods: TestExitLayout
		}
		checkFields(t, name, typ, want.Fields)
	}
}

func checkFields(t *testing.T, name string, typ reflect.Type, fields []struct {
	Name         string
	Offset, Size uintptr
}) {
	for _, f := range fields {
		word := f.Name
		if w, ok := goNames[word]; ok {
			word = w
		}
		word = strings.ReplaceAll(word, "_", "")
		g, ok := typ.FieldByNameFunc(func(s string) bool { return strings.EqualFold(s, word) })
		if !ok {
			t.Errorf("%s: no field for %s", name, f.Name)
			continue
		}
		if g.Offset != f.Offset || g.Type.Size() != f.Size {
			t.Errorf("%s.%s: offset %d size %d, want %d and %d", name, f.Name, g.Offset, g.Type.Size(), f.Offset, f.Size)
		}
	}
}

// The segment descriptor is nested in C and flat in Go; vm_stats has a timeval.
func TestNested(t *testing.T) {
	tab := readTable(t)
	outer, inner := tab.Structs["vm_seg_desc"], tab.Structs["seg_desc"]
	typ := reflect.TypeOf(SegDesc{})
	if typ.Size() != outer.Size {
		t.Errorf("vm_seg_desc: %d bytes, want %d", typ.Size(), outer.Size)
	}
	at := outer.Fields[2].Offset
	for _, f := range inner.Fields {
		g, ok := typ.FieldByNameFunc(func(s string) bool { return strings.EqualFold(s, f.Name) })
		if !ok || g.Offset != at+f.Offset || g.Type.Size() != f.Size {
			t.Errorf("vm_seg_desc.desc.%s: %+v, want offset %d size %d", f.Name, g, at+f.Offset, f.Size)
		}
	}
	stats, want := reflect.TypeOf(Stats{}), tab.Structs["vm_stats"]
	tv, _ := stats.FieldByName("TvSec")
	buf, _ := stats.FieldByName("Statbuf")
	if stats.Size() != want.Size || tv.Offset != want.Fields[3].Offset || buf.Offset != want.Fields[4].Offset {
		t.Errorf("vm_stats: size %d, tv at %d, statbuf at %d; want %+v", stats.Size(), tv.Offset, buf.Offset, want)
	}
}

// FreeBSD 14's segment is 15's without the NUMA policy.
func TestMemseg14(t *testing.T) {
	if s := reflect.TypeOf(Memseg14{}).Size(); s != VM_ALLOC_MEMSEG_14>>16&0x1fff {
		t.Errorf("vm_memseg of 14: %d bytes, want %d", s, VM_ALLOC_MEMSEG_14>>16&0x1fff)
	}
}

func TestNumbers(t *testing.T) {
	tab := readTable(t)
	numbers := map[string]uint64{
		"VM_RUN": VM_RUN, "VM_SET_CAPABILITY": VM_SET_CAPABILITY, "VM_GET_CAPABILITY": VM_GET_CAPABILITY,
		"VM_SUSPEND": VM_SUSPEND, "VM_REINIT": VM_REINIT, "VM_ALLOC_MEMSEG": VM_ALLOC_MEMSEG,
		"VM_GET_MEMSEG": VM_GET_MEMSEG, "VM_MMAP_MEMSEG": VM_MMAP_MEMSEG, "VM_MMAP_GETNEXT": VM_MMAP_GETNEXT,
		"VM_GLA2GPA": VM_GLA2GPA, "VM_GLA2GPA_NOFAULT": VM_GLA2GPA_NOFAULT, "VM_MUNMAP_MEMSEG": VM_MUNMAP_MEMSEG,
		"VM_SET_REGISTER": VM_SET_REGISTER, "VM_GET_REGISTER": VM_GET_REGISTER,
		"VM_SET_SEGMENT_DESCRIPTOR": VM_SET_SEGMENT_DESCRIPTOR, "VM_GET_SEGMENT_DESCRIPTOR": VM_GET_SEGMENT_DESCRIPTOR,
		"VM_SET_REGISTER_SET": VM_SET_REGISTER_SET, "VM_GET_REGISTER_SET": VM_GET_REGISTER_SET,
		"VM_GET_INTINFO": VM_GET_INTINFO, "VM_SET_INTINFO": VM_SET_INTINFO, "VM_INJECT_EXCEPTION": VM_INJECT_EXCEPTION,
		"VM_LAPIC_IRQ": VM_LAPIC_IRQ, "VM_INJECT_NMI": VM_INJECT_NMI, "VM_IOAPIC_ASSERT_IRQ": VM_IOAPIC_ASSERT_IRQ,
		"VM_IOAPIC_DEASSERT_IRQ": VM_IOAPIC_DEASSERT_IRQ, "VM_IOAPIC_PULSE_IRQ": VM_IOAPIC_PULSE_IRQ,
		"VM_LAPIC_MSI": VM_LAPIC_MSI, "VM_LAPIC_LOCAL_IRQ": VM_LAPIC_LOCAL_IRQ, "VM_IOAPIC_PINCOUNT": VM_IOAPIC_PINCOUNT,
		"VM_RESTART_INSTRUCTION": VM_RESTART_INSTRUCTION, "VM_STATS": VM_STATS, "VM_STAT_DESC": VM_STAT_DESC,
		"VM_SET_X2APIC_STATE": VM_SET_X2APIC_STATE, "VM_GET_X2APIC_STATE": VM_GET_X2APIC_STATE,
		"VM_GET_HPET_CAPABILITIES": VM_GET_HPET_CAPABILITIES, "VM_SET_TOPOLOGY": VM_SET_TOPOLOGY,
		"VM_GET_TOPOLOGY": VM_GET_TOPOLOGY, "VM_ISA_ASSERT_IRQ": VM_ISA_ASSERT_IRQ, "VM_ISA_DEASSERT_IRQ": VM_ISA_DEASSERT_IRQ,
		"VM_ISA_PULSE_IRQ": VM_ISA_PULSE_IRQ, "VM_ISA_SET_IRQ_TRIGGER": VM_ISA_SET_IRQ_TRIGGER,
		"VM_ACTIVATE_CPU": VM_ACTIVATE_CPU, "VM_GET_CPUS": VM_GET_CPUS, "VM_SUSPEND_CPU": VM_SUSPEND_CPU,
		"VM_RESUME_CPU": VM_RESUME_CPU, "VM_RTC_READ": VM_RTC_READ, "VM_RTC_WRITE": VM_RTC_WRITE,
		"VM_RTC_SETTIME": VM_RTC_SETTIME, "VM_RTC_GETTIME": VM_RTC_GETTIME,
		"VMMCTL_VM_CREATE": VMMCTL_VM_CREATE, "VMMCTL_VM_DESTROY": VMMCTL_VM_DESTROY,

		"VM_MAX_NAMELEN": VM_MAX_NAMELEN, "VM_MAX_SUFFIXLEN": VM_MAX_SUFFIXLEN,

		"VM_EXITCODE_INOUT": VM_EXITCODE_INOUT, "VM_EXITCODE_VMX": VM_EXITCODE_VMX, "VM_EXITCODE_BOGUS": VM_EXITCODE_BOGUS,
		"VM_EXITCODE_RDMSR": VM_EXITCODE_RDMSR, "VM_EXITCODE_WRMSR": VM_EXITCODE_WRMSR, "VM_EXITCODE_HLT": VM_EXITCODE_HLT,
		"VM_EXITCODE_MTRAP": VM_EXITCODE_MTRAP, "VM_EXITCODE_PAUSE": VM_EXITCODE_PAUSE, "VM_EXITCODE_PAGING": VM_EXITCODE_PAGING,
		"VM_EXITCODE_INST_EMUL": VM_EXITCODE_INST_EMUL, "VM_EXITCODE_SPINUP_AP": VM_EXITCODE_SPINUP_AP,
		"VM_EXITCODE_RENDEZVOUS": VM_EXITCODE_RENDEZVOUS, "VM_EXITCODE_IOAPIC_EOI": VM_EXITCODE_IOAPIC_EOI,
		"VM_EXITCODE_SUSPENDED": VM_EXITCODE_SUSPENDED, "VM_EXITCODE_INOUT_STR": VM_EXITCODE_INOUT_STR,
		"VM_EXITCODE_TASK_SWITCH": VM_EXITCODE_TASK_SWITCH, "VM_EXITCODE_MONITOR": VM_EXITCODE_MONITOR,
		"VM_EXITCODE_MWAIT": VM_EXITCODE_MWAIT, "VM_EXITCODE_SVM": VM_EXITCODE_SVM, "VM_EXITCODE_REQIDLE": VM_EXITCODE_REQIDLE,
		"VM_EXITCODE_DEBUG": VM_EXITCODE_DEBUG, "VM_EXITCODE_VMINSN": VM_EXITCODE_VMINSN, "VM_EXITCODE_BPT": VM_EXITCODE_BPT,
		"VM_EXITCODE_IPI": VM_EXITCODE_IPI, "VM_EXITCODE_DB": VM_EXITCODE_DB,

		"VM_SUSPEND_NONE": VM_SUSPEND_NONE, "VM_SUSPEND_RESET": VM_SUSPEND_RESET, "VM_SUSPEND_POWEROFF": VM_SUSPEND_POWEROFF,
		"VM_SUSPEND_HALT": VM_SUSPEND_HALT, "VM_SUSPEND_TRIPLEFAULT": VM_SUSPEND_TRIPLEFAULT, "VM_SUSPEND_DESTROY": VM_SUSPEND_DESTROY,

		"VM_CAP_HALT_EXIT": VM_CAP_HALT_EXIT, "VM_CAP_MTRAP_EXIT": VM_CAP_MTRAP_EXIT, "VM_CAP_PAUSE_EXIT": VM_CAP_PAUSE_EXIT,
		"VM_CAP_UNRESTRICTED_GUEST": VM_CAP_UNRESTRICTED_GUEST, "VM_CAP_ENABLE_INVPCID": VM_CAP_ENABLE_INVPCID,
		"VM_CAP_BPT_EXIT": VM_CAP_BPT_EXIT, "VM_CAP_RDPID": VM_CAP_RDPID, "VM_CAP_RDTSCP": VM_CAP_RDTSCP, "VM_CAP_IPI_EXIT": VM_CAP_IPI_EXIT,

		"VM_REG_GUEST_RAX": VM_REG_GUEST_RAX, "VM_REG_GUEST_RBX": VM_REG_GUEST_RBX, "VM_REG_GUEST_RCX": VM_REG_GUEST_RCX,
		"VM_REG_GUEST_RDX": VM_REG_GUEST_RDX, "VM_REG_GUEST_RSI": VM_REG_GUEST_RSI, "VM_REG_GUEST_RDI": VM_REG_GUEST_RDI,
		"VM_REG_GUEST_RBP": VM_REG_GUEST_RBP, "VM_REG_GUEST_R8": VM_REG_GUEST_R8, "VM_REG_GUEST_R9": VM_REG_GUEST_R9,
		"VM_REG_GUEST_R10": VM_REG_GUEST_R10, "VM_REG_GUEST_R11": VM_REG_GUEST_R11, "VM_REG_GUEST_R12": VM_REG_GUEST_R12,
		"VM_REG_GUEST_R13": VM_REG_GUEST_R13, "VM_REG_GUEST_R14": VM_REG_GUEST_R14, "VM_REG_GUEST_R15": VM_REG_GUEST_R15,
		"VM_REG_GUEST_CR0": VM_REG_GUEST_CR0, "VM_REG_GUEST_CR3": VM_REG_GUEST_CR3, "VM_REG_GUEST_CR4": VM_REG_GUEST_CR4,
		"VM_REG_GUEST_DR7": VM_REG_GUEST_DR7, "VM_REG_GUEST_RSP": VM_REG_GUEST_RSP, "VM_REG_GUEST_RIP": VM_REG_GUEST_RIP,
		"VM_REG_GUEST_RFLAGS": VM_REG_GUEST_RFLAGS, "VM_REG_GUEST_ES": VM_REG_GUEST_ES, "VM_REG_GUEST_CS": VM_REG_GUEST_CS,
		"VM_REG_GUEST_SS": VM_REG_GUEST_SS, "VM_REG_GUEST_DS": VM_REG_GUEST_DS, "VM_REG_GUEST_FS": VM_REG_GUEST_FS,
		"VM_REG_GUEST_GS": VM_REG_GUEST_GS, "VM_REG_GUEST_LDTR": VM_REG_GUEST_LDTR, "VM_REG_GUEST_TR": VM_REG_GUEST_TR,
		"VM_REG_GUEST_IDTR": VM_REG_GUEST_IDTR, "VM_REG_GUEST_GDTR": VM_REG_GUEST_GDTR, "VM_REG_GUEST_EFER": VM_REG_GUEST_EFER,
		"VM_REG_GUEST_CR2": VM_REG_GUEST_CR2, "VM_REG_GUEST_INTR_SHADOW": VM_REG_GUEST_INTR_SHADOW, "VM_REG_GUEST_DR6": VM_REG_GUEST_DR6,
		"VM_REG_LAST": VM_REG_LAST,
	}
	for name, got := range numbers {
		want, ok := tab.Constants[name]
		if !ok {
			t.Errorf("%s is not in the table", name)
		} else if got != want {
			t.Errorf("%s = %#x, want %#x", name, got, want)
		}
	}
}

// TestExitLayout writes each member of the union at the offset that the table
// gives and reads it by the methods.
func TestExitLayout(t *testing.T) {
	tab := readTable(t)
	offset := func(structName, field string, nth int) int {
		for _, f := range tab.Structs[structName].Fields {
			if f.Name == field {
				if nth == 0 {
					return int(f.Offset)
				}
				nth--
			}
		}
		t.Fatalf("%s.%s is not in the table", structName, field)
		return 0
	}
	put := func(e *Exit, o int, v uint64, size int) {
		for i := range size {
			at := o - 16 + i
			shift := 8 * (at % 8)
			e.U[at/8] = e.U[at/8]&^(0xff<<shift) | (v>>(8*i)&0xff)<<shift
		}
	}
	typ := reflect.TypeOf(Exit{})
	for _, n := range []string{"exitcode", "inst_length", "rip"} {
		g, _ := typ.FieldByNameFunc(func(s string) bool { return strings.EqualFold(s, strings.ReplaceAll(n, "_", "")) })
		if int(g.Offset) != offset("vm_exit", n, 0) {
			t.Errorf("vm_exit.%s at %d", n, g.Offset)
		}
	}
	var e Exit
	io := offset("vm_exit", "inout", 0)
	put(&e, io, 4|1<<3|1<<5, 2)
	put(&e, io+offset("vm_inout", "port", 0), 0x3f8, 2)
	put(&e, io+offset("vm_inout", "eax", 0), 0xdeadbeef, 4)
	if got := e.Inout(); got != (Inout{Bytes: 4, In: true, Rep: true, Port: 0x3f8, Eax: 0xdeadbeef}) {
		t.Errorf("inout: %+v", got)
	}

	e = Exit{}
	s := offset("vm_exit", "inout_str", 0)
	put(&e, s+offset("vm_inout_str", "paging", 0)+offset("vm_guest_paging", "cpu_mode", 0), 3, 4)
	put(&e, s+offset("vm_inout_str", "index", 0), 0x1234, 8)
	put(&e, s+offset("vm_inout_str", "count", 0), 77, 8)
	put(&e, s+offset("vm_inout_str", "addrsize", 0), 8, 4)
	put(&e, s+offset("vm_inout_str", "seg_name", 0), 22, 4)
	put(&e, s+offset("vm_inout_str", "seg_desc", 0)+offset("seg_desc", "base", 0), 0xabc0, 8)
	put(&e, s+offset("vm_inout_str", "rflags", 0), 0x402, 8)
	want := InoutStr{Paging: Paging{CPUMode: 3}, Index: 0x1234, Count: 77, Addrsize: 8, SegName: 22, SegBase: 0xabc0, Rflags: 0x402}
	if got := e.InoutStr(); got != want {
		t.Errorf("inout_str: %+v, want %+v", got, want)
	}

	e = Exit{}
	m := offset("vm_exit", "vie", 0)
	put(&e, offset("vm_exit", "gpa", 1), 0xc0000000, 8)
	put(&e, offset("vm_exit", "gla", 0), 0xffff800000000000, 8)
	put(&e, offset("vm_exit", "cs_base", 0), 0x1000, 8)
	put(&e, offset("vm_exit", "cs_d", 0), 1, 4)
	put(&e, offset("vm_exit", "paging", 1)+offset("vm_guest_paging", "cr3", 0), 0x5000, 8)
	put(&e, m+offset("vie", "inst", 0), 0x0b89, 2)
	put(&e, m+offset("vie", "num_valid", 0), 2, 1)
	got := e.InstEmul()
	if got.Gpa != 0xc0000000 || got.Gla != 0xffff800000000000 || got.CsBase != 0x1000 || !got.CsD || got.Paging.Cr3 != 0x5000 ||
		got.Valid != 2 || got.Inst[0] != 0x89 || got.Inst[1] != 0x0b {
		t.Errorf("inst_emul: %+v", got)
	}

	e = Exit{}
	put(&e, offset("vm_exit", "code", 0), 0xc0000080, 4)
	put(&e, offset("vm_exit", "wval", 0), 0x500, 8)
	if code, v := e.MSR(); code != 0xc0000080 || v != 0x500 {
		t.Errorf("msr: %#x %#x", code, v)
	}
}
