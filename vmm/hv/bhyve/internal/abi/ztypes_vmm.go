// SPDX-License-Identifier: BSD-2-Clause

package abi

// ioctl numbers of a machine's device, group 'v' (machine/vmm_dev.h). Those
// that FreeBSD 14 has otherwise stand apart below.
const (
	VM_RUN                    = 0x80207601
	VM_SET_CAPABILITY         = 0x80107602
	VM_GET_CAPABILITY         = 0xc0107603
	VM_SUSPEND                = 0x80047604
	VM_REINIT                 = 0x20007605
	VM_ALLOC_MEMSEG           = 0x8038760e
	VM_GET_MEMSEG             = 0xc038760f
	VM_MMAP_MEMSEG            = 0x80287610
	VM_MMAP_GETNEXT           = 0xc0287611
	VM_GLA2GPA                = 0xc038760d
	VM_GLA2GPA_NOFAULT        = 0xc0387612
	VM_MUNMAP_MEMSEG          = 0x80107613
	VM_SET_REGISTER           = 0x80107614
	VM_GET_REGISTER           = 0xc0107615
	VM_SET_SEGMENT_DESCRIPTOR = 0x80187616
	VM_GET_SEGMENT_DESCRIPTOR = 0xc0187617
	VM_SET_REGISTER_SET       = 0x80187618
	VM_GET_REGISTER_SET       = 0xc0187619
	VM_GET_INTINFO            = 0xc018761c
	VM_SET_INTINFO            = 0x8018761d
	VM_INJECT_EXCEPTION       = 0x8014761e
	VM_LAPIC_IRQ              = 0x8008761f
	VM_INJECT_NMI             = 0x80047620
	VM_IOAPIC_ASSERT_IRQ      = 0x80047621
	VM_IOAPIC_DEASSERT_IRQ    = 0x80047622
	VM_IOAPIC_PULSE_IRQ       = 0x80047623
	VM_LAPIC_MSI              = 0x80107624
	VM_LAPIC_LOCAL_IRQ        = 0x80087625
	VM_IOAPIC_PINCOUNT        = 0x40047626
	VM_RESTART_INSTRUCTION    = 0x80047627
	VM_STATS                  = 0xc2207632
	VM_STAT_DESC              = 0xc0847633
	VM_SET_X2APIC_STATE       = 0x8008763c
	VM_GET_X2APIC_STATE       = 0xc008763d
	VM_GET_HPET_CAPABILITIES  = 0x4004763e
	VM_SET_TOPOLOGY           = 0x8008763f
	VM_GET_TOPOLOGY           = 0x40087640
	VM_ISA_ASSERT_IRQ         = 0x80087650
	VM_ISA_DEASSERT_IRQ       = 0x80087651
	VM_ISA_PULSE_IRQ          = 0x80087652
	VM_ISA_SET_IRQ_TRIGGER    = 0x80087653
	VM_ACTIVATE_CPU           = 0x8004765a
	VM_GET_CPUS               = 0x8010765b
	VM_SUSPEND_CPU            = 0x8004765c
	VM_RESUME_CPU             = 0x8004765d
	VM_RTC_READ               = 0xc0087664
	VM_RTC_WRITE              = 0x80087665
	VM_RTC_SETTIME            = 0x80087666
	VM_RTC_GETTIME            = 0x40087667

	VMMCTL_VM_CREATE  = 0xc1285600
	VMMCTL_VM_DESTROY = 0xc1285601
)

// ioctl numbers of FreeBSD 14, whose memory segments have no NUMA policy (read
// from 15's compatibility code; not in the table of 15).
const (
	VM_ALLOC_MEMSEG_14 = 0x8020760e
	VM_GET_MEMSEG_14   = 0xc020760f
)

// Memory segment identifiers (vmm_dev.h, enum). SYSMEM is the same on both.
const (
	SegSysmem     = 0
	SegBootrom    = 8 // on 15
	SegBootrom_14 = 1
)

// Lengths of names.
const (
	VM_MAX_NAMELEN    = 229
	VM_MAX_SUFFIXLEN  = 15
	VM_STAT_DESC_LEN  = 128
	VM_MAX_STATS      = 64
	VM_MEMSEG_NAMELEN = 16
)

// Why VM_RUN returned (enum vm_exitcode).
const (
	VM_EXITCODE_INOUT       = 0
	VM_EXITCODE_VMX         = 1
	VM_EXITCODE_BOGUS       = 2
	VM_EXITCODE_RDMSR       = 3
	VM_EXITCODE_WRMSR       = 4
	VM_EXITCODE_HLT         = 5
	VM_EXITCODE_MTRAP       = 6
	VM_EXITCODE_PAUSE       = 7
	VM_EXITCODE_PAGING      = 8
	VM_EXITCODE_INST_EMUL   = 9
	VM_EXITCODE_SPINUP_AP   = 10
	VM_EXITCODE_RENDEZVOUS  = 12
	VM_EXITCODE_IOAPIC_EOI  = 13
	VM_EXITCODE_SUSPENDED   = 14
	VM_EXITCODE_INOUT_STR   = 15
	VM_EXITCODE_TASK_SWITCH = 16
	VM_EXITCODE_MONITOR     = 17
	VM_EXITCODE_MWAIT       = 18
	VM_EXITCODE_SVM         = 19
	VM_EXITCODE_REQIDLE     = 20
	VM_EXITCODE_DEBUG       = 21
	VM_EXITCODE_VMINSN      = 22
	VM_EXITCODE_BPT         = 23
	VM_EXITCODE_IPI         = 24
	VM_EXITCODE_DB          = 25
)

// Why a machine was suspended (enum vm_suspend_how).
const (
	VM_SUSPEND_NONE        = 0
	VM_SUSPEND_RESET       = 1
	VM_SUSPEND_POWEROFF    = 2
	VM_SUSPEND_HALT        = 3
	VM_SUSPEND_TRIPLEFAULT = 4
	VM_SUSPEND_DESTROY     = 5
)

// Capabilities of a vCPU (enum vm_cap_type).
const (
	VM_CAP_HALT_EXIT          = 0
	VM_CAP_MTRAP_EXIT         = 1
	VM_CAP_PAUSE_EXIT         = 2
	VM_CAP_UNRESTRICTED_GUEST = 3
	VM_CAP_ENABLE_INVPCID     = 4
	VM_CAP_BPT_EXIT           = 5
	VM_CAP_RDPID              = 6
	VM_CAP_RDTSCP             = 7
	VM_CAP_IPI_EXIT           = 8
)

// Registers (enum vm_reg_name).
const (
	VM_REG_GUEST_RAX         = 0
	VM_REG_GUEST_RBX         = 1
	VM_REG_GUEST_RCX         = 2
	VM_REG_GUEST_RDX         = 3
	VM_REG_GUEST_RSI         = 4
	VM_REG_GUEST_RDI         = 5
	VM_REG_GUEST_RBP         = 6
	VM_REG_GUEST_R8          = 7
	VM_REG_GUEST_R9          = 8
	VM_REG_GUEST_R10         = 9
	VM_REG_GUEST_R11         = 10
	VM_REG_GUEST_R12         = 11
	VM_REG_GUEST_R13         = 12
	VM_REG_GUEST_R14         = 13
	VM_REG_GUEST_R15         = 14
	VM_REG_GUEST_CR0         = 15
	VM_REG_GUEST_CR3         = 16
	VM_REG_GUEST_CR4         = 17
	VM_REG_GUEST_DR7         = 18
	VM_REG_GUEST_RSP         = 19
	VM_REG_GUEST_RIP         = 20
	VM_REG_GUEST_RFLAGS      = 21
	VM_REG_GUEST_ES          = 22
	VM_REG_GUEST_CS          = 23
	VM_REG_GUEST_SS          = 24
	VM_REG_GUEST_DS          = 25
	VM_REG_GUEST_FS          = 26
	VM_REG_GUEST_GS          = 27
	VM_REG_GUEST_LDTR        = 28
	VM_REG_GUEST_TR          = 29
	VM_REG_GUEST_IDTR        = 30
	VM_REG_GUEST_GDTR        = 31
	VM_REG_GUEST_EFER        = 32
	VM_REG_GUEST_CR2         = 33
	VM_REG_GUEST_INTR_SHADOW = 38
	VM_REG_GUEST_DR6         = 43
	VM_REG_LAST              = 49
)

// CPU and paging modes of vm_guest_paging (machine/vmm.h, enum vm_cpu_mode and
// vm_paging_mode; not in the table).
const (
	CPU_MODE_REAL          = 0
	CPU_MODE_PROTECTED     = 1
	CPU_MODE_COMPATIBILITY = 2
	CPU_MODE_64BIT         = 3

	PAGING_MODE_FLAT = 0
)

// Protections (vm/vm.h).
const (
	PROT_READ  = 1
	PROT_WRITE = 2
	PROT_EXEC  = 4
)

// CtlCreate is struct vmmctl_vm_create and vmmctl_vm_destroy. The words after
// the name are reserved on 15; the first is flags in the sources that become 16,
// which skep has not run on.
type CtlCreate struct {
	Name     [VM_MAX_NAMELEN + 1]byte
	_        [2]byte
	Reserved [16]int32
}

// CreateDestroyOnClose is bit 0 of the flags that 16 has in CtlCreate
// (VMMCTL_CREATE_DESTROY_ON_CLOSE): the machine ends when the last descriptor of
// the open vmmctl goes by which it was made (vmmctl_dtor). Not confirmed on a kernel.
const CreateDestroyOnClose = 1

// Memseg is struct vm_memseg of 15.
type Memseg struct {
	Segid      int32
	_          int32
	Len        uint64
	Name       [VM_MEMSEG_NAMELEN]byte
	DsMask     uint64
	DsMaskSize uint64
	DsPolicy   int32
	_          int32
}

// Memseg14 is struct vm_memseg of 14.
type Memseg14 struct {
	Segid int32
	_     int32
	Len   uint64
	Name  [VM_MEMSEG_NAMELEN]byte
}

// Memmap is struct vm_memmap.
type Memmap struct {
	Gpa    uint64
	Segid  int32
	_      int32
	Segoff int64
	Len    uint64
	Prot   int32
	Flags  int32
}

// Register is struct vm_register.
type Register struct {
	Cpuid  int32
	Regnum int32
	Regval uint64
}

// RegisterSet is struct vm_register_set.
type RegisterSet struct {
	Cpuid   int32
	Count   uint32
	Regnums *int32
	Regvals *uint64
}

// SegDesc is struct vm_seg_desc with its struct seg_desc.
type SegDesc struct {
	Cpuid  int32
	Regnum int32
	Base   uint64
	Limit  uint32
	Access uint32
}

// Run is struct vm_run.
type Run struct {
	Cpuid      int32
	_          int32
	Cpuset     *byte
	Cpusetsize uint64
	Exit       *Exit
}

// Capability is struct vm_capability.
type Capability struct {
	Cpuid   int32
	Captype int32
	Capval  int32
	Allcpus int32
}

// Suspend is struct vm_suspend.
type Suspend struct{ How int32 }

// ActivateCPU is struct vm_activate_cpu, which VM_SUSPEND_CPU, VM_RESUME_CPU and
// VM_INJECT_NMI use as well; for VM_RESTART_INSTRUCTION the int of its argument.
type ActivateCPU struct{ Vcpuid int32 }

// CPUSet is struct vm_cpuset.
type CPUSet struct {
	Which      int32
	Cpusetsize int32
	Cpus       *byte
}

// Exception is struct vm_exception.
type Exception struct {
	Cpuid              int32
	Vector             int32
	ErrorCode          uint32
	ErrorCodeValid     int32
	RestartInstruction int32
}

// LapicMSI is struct vm_lapic_msi.
type LapicMSI struct {
	Msg  uint64
	Addr uint64
}

// IoapicIRQ is struct vm_ioapic_irq.
type IoapicIRQ struct{ Irq int32 }

// IsaIRQ is struct vm_isa_irq.
type IsaIRQ struct {
	AtpicIrq  int32
	IoapicIrq int32
}

// IsaTrigger is struct vm_isa_irq_trigger.
type IsaTrigger struct {
	AtpicIrq int32
	Trigger  int32
}

// Topology is struct vm_cpu_topology.
type Topology struct {
	Sockets uint16
	Cores   uint16
	Threads uint16
	Maxcpus uint16
}

// X2apic is struct vm_x2apic.
type X2apic struct {
	Cpuid int32
	State int32
}

// Paging is struct vm_guest_paging.
type Paging struct {
	Cr3        uint64
	Cpl        int32
	CPUMode    int32
	PagingMode int32
	_          int32
}

// Gla2gpa is struct vm_gla2gpa.
type Gla2gpa struct {
	Vcpuid int32
	Prot   int32
	Gla    uint64
	Paging Paging
	Fault  int32
	_      int32
	Gpa    uint64
}

// RTCData is struct vm_rtc_data.
type RTCData struct {
	Offset int32
	Value  uint8
	_      [3]byte
}

// HPETCap is struct vm_hpet_cap.
type HPETCap struct{ Capabilities uint32 }

// RTCTime is struct vm_rtc_time.
type RTCTime struct{ Secs int64 }

// StatDesc is struct vm_stat_desc.
type StatDesc struct {
	Index int32
	Desc  [VM_STAT_DESC_LEN]byte
}

// Stats is struct vm_stats.
type Stats struct {
	Cpuid      int32
	Index      int32
	NumEntries int32
	_          int32
	TvSec      int64
	TvUsec     int64
	Statbuf    [VM_MAX_STATS]uint64
}

// Exit is struct vm_exit: what every exit has, and the union at offset 16. The
// methods of the Exit read the union by the exit's code.
type Exit struct {
	Exitcode   int32
	InstLength int32
	Rip        uint64
	U          [15]uint64
}
