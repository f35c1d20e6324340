// SPDX-License-Identifier: BSD-2-Clause

package kvm

// Raw structures and numbers of linux/kvm.h on amd64. The tag names the C field;
// a test holds each size, offset and number against testdata.

const apiVersion = 12

// Requests to /dev/kvm.
const (
	kvmGetAPIVersion     = 0xae00
	kvmCreateVM          = 0xae01
	kvmGetMSRIndexList   = 0xc004ae02
	kvmCheckExtension    = 0xae03
	kvmGetVCPUMmapSize   = 0xae04
	kvmGetSupportedCPUID = 0xc008ae05
)

// Requests to a machine.
const (
	kvmCreateVCPU          = 0xae41
	kvmSetUserMemoryRegion = 0x4020ae46
	kvmSetTSSAddr          = 0xae47
	kvmSetIdentityMapAddr  = 0x4008ae48
	kvmCreateIRQChip       = 0xae60
	kvmIRQLine             = 0x4008ae61
	kvmGetIRQChip          = 0xc208ae62
	kvmSetIRQChip          = 0x8208ae63
	kvmSetGSIRouting       = 0x4008ae6a
	kvmIRQFD               = 0x4020ae76
	kvmCreatePIT2          = 0x4040ae77
	kvmIOEventFD           = 0x4040ae79
	kvmSetClock            = 0x4030ae7b
	kvmGetClock            = 0x8030ae7c
	kvmGetPIT2             = 0x8070ae9f
	kvmSetPIT2             = 0x4070aea0
	kvmSignalMSI           = 0x4020aea5
)

// Requests to a vCPU.
const (
	kvmRun           = 0xae80
	kvmGetRegs       = 0x8090ae81
	kvmSetRegs       = 0x4090ae82
	kvmGetSregs      = 0x8138ae83
	kvmSetSregs      = 0x4138ae84
	kvmGetMSRs       = 0xc008ae88
	kvmSetMSRs       = 0x4008ae89
	kvmGetLAPIC      = 0x8400ae8e
	kvmSetLAPIC      = 0x4400ae8f
	kvmSetCPUID2     = 0x4008ae90
	kvmGetMPState    = 0x8004ae98
	kvmSetMPState    = 0x4004ae99
	kvmGetVCPUEvents = 0x8040ae9f
	kvmSetVCPUEvents = 0x4040aea0
	kvmGetDebugRegs  = 0x8080aea1
	kvmSetDebugRegs  = 0x4080aea2
	kvmGetTSCKHz     = 0xaea3
	kvmGetXSave      = 0x9000aea4
	kvmSetXSave      = 0x5000aea5
	kvmGetXCRs       = 0x8188aea6
	kvmSetXCRs       = 0x4188aea7
	kvmKVMClockCtrl  = 0xaead
)

// Capabilities.
const (
	capIRQChip            = 0
	capUserMemory         = 3
	capSetTSSAddr         = 4
	capExtCPUID           = 7
	capNrVCPUs            = 9
	capMPState            = 14
	capIRQRouting         = 25
	capIRQFD              = 32
	capPIT2               = 33
	capIOEventFD          = 36
	capSetIdentityMapAddr = 37
	capAdjustClock        = 39
	capVCPUEvents         = 41
	capDebugRegs          = 50
	capXSave              = 55
	capXCRs               = 56
	capGetTSCKHz          = 61
	capMaxVCPUs           = 66
	capTSCDeadlineTimer   = 72
	capSyncRegs           = 74
	capKVMClockCtrl       = 76
	capSignalMSI          = 77
	capReadonlyMem        = 81
	capIOEventFDAnyLength = 122
	capImmediateExit      = 136
)

// Exit reasons and what goes with them.
const (
	exitUnknown       = 0
	exitIO            = 2
	exitDebug         = 4
	exitHLT           = 5
	exitMMIO          = 6
	exitIRQWindowOpen = 7
	exitShutdown      = 8
	exitFailEntry     = 9
	exitIntr          = 10
	exitInternalError = 17
	exitSystemEvent   = 24

	exitIOOut = 1

	internalErrorEmulation = 1
	emulationInsnBytes     = 1

	systemEventShutdown = 1
	systemEventReset    = 2
	systemEventCrash    = 3
)

// Flags.
const (
	memReadonly         = 2
	routingIRQChip      = 1
	routingMSI          = 2
	irqfdDeassign       = 1
	ioeventfdDeassign   = 4
	irqchipPICMaster    = 0
	irqchipPICSlave     = 1
	irqchipIOAPIC       = 2
	mpStateRunnable     = 0
	mpStateUninit       = 1
	pitSpeakerDummy     = 1
	cpuidSignificantIdx = 1
	syncRegs            = 1
)

type userMemoryRegion struct {
	Slot          uint32 `abi:"slot"`
	Flags         uint32 `abi:"flags"`
	GuestPhysAddr uint64 `abi:"guest_phys_addr"`
	MemorySize    uint64 `abi:"memory_size"`
	UserspaceAddr uint64 `abi:"userspace_addr"`
}

type kregs struct {
	RAX    uint64 `abi:"rax"`
	RBX    uint64 `abi:"rbx"`
	RCX    uint64 `abi:"rcx"`
	RDX    uint64 `abi:"rdx"`
	RSI    uint64 `abi:"rsi"`
	RDI    uint64 `abi:"rdi"`
	RSP    uint64 `abi:"rsp"`
	RBP    uint64 `abi:"rbp"`
	R8     uint64 `abi:"r8"`
	R9     uint64 `abi:"r9"`
	R10    uint64 `abi:"r10"`
	R11    uint64 `abi:"r11"`
	R12    uint64 `abi:"r12"`
	R13    uint64 `abi:"r13"`
	R14    uint64 `abi:"r14"`
	R15    uint64 `abi:"r15"`
	RIP    uint64 `abi:"rip"`
	RFLAGS uint64 `abi:"rflags"`
}

type ksegment struct {
	Base     uint64 `abi:"base"`
	Limit    uint32 `abi:"limit"`
	Selector uint16 `abi:"selector"`
	Type     uint8  `abi:"type"`
	Present  uint8  `abi:"present"`
	DPL      uint8  `abi:"dpl"`
	DB       uint8  `abi:"db"`
	S        uint8  `abi:"s"`
	L        uint8  `abi:"l"`
	G        uint8  `abi:"g"`
	AVL      uint8  `abi:"avl"`
	Unusable uint8  `abi:"unusable"`
	Padding  uint8  `abi:"padding"`
}

type kdtable struct {
	Base    uint64    `abi:"base"`
	Limit   uint16    `abi:"limit"`
	Padding [3]uint16 `abi:"padding"`
}

type ksregs struct {
	CS              ksegment  `abi:"cs"`
	DS              ksegment  `abi:"ds"`
	ES              ksegment  `abi:"es"`
	FS              ksegment  `abi:"fs"`
	GS              ksegment  `abi:"gs"`
	SS              ksegment  `abi:"ss"`
	TR              ksegment  `abi:"tr"`
	LDT             ksegment  `abi:"ldt"`
	GDT             kdtable   `abi:"gdt"`
	IDT             kdtable   `abi:"idt"`
	CR0             uint64    `abi:"cr0"`
	CR2             uint64    `abi:"cr2"`
	CR3             uint64    `abi:"cr3"`
	CR4             uint64    `abi:"cr4"`
	CR8             uint64    `abi:"cr8"`
	EFER            uint64    `abi:"efer"`
	APICBase        uint64    `abi:"apic_base"`
	InterruptBitmap [4]uint64 `abi:"interrupt_bitmap"`
}

type cpuidEntry struct {
	Function uint32    `abi:"function"`
	Index    uint32    `abi:"index"`
	Flags    uint32    `abi:"flags"`
	EAX      uint32    `abi:"eax"`
	EBX      uint32    `abi:"ebx"`
	ECX      uint32    `abi:"ecx"`
	EDX      uint32    `abi:"edx"`
	Padding  [3]uint32 `abi:"padding"`
}

// maxCPUIDEntries bounds the list that is asked for and given.
const maxCPUIDEntries = 256

type cpuid2 struct {
	Nent    uint32 `abi:"nent"`
	Padding uint32 `abi:"padding"`
	Entries [maxCPUIDEntries]cpuidEntry
}

type msrEntry struct {
	Index    uint32 `abi:"index"`
	Reserved uint32 `abi:"reserved"`
	Data     uint64 `abi:"data"`
}

// maxMSRs bounds the list of MSRs that a reset puts back.
const maxMSRs = 512

type msrs struct {
	Nmsrs   uint32 `abi:"nmsrs"`
	Pad     uint32 `abi:"pad"`
	Entries [maxMSRs]msrEntry
}

type msrList struct {
	Nmsrs   uint32 `abi:"nmsrs"`
	Indices [maxMSRs]uint32
}

type irqLevel struct {
	IRQ   uint32 `abi:"irq"`
	Level uint32 `abi:"level"`
}

// routingEntry's union is {irqchip, pin} or {address_lo, address_hi, data}.
type routingEntry struct {
	GSI   uint32    `abi:"gsi"`
	Type  uint32    `abi:"type"`
	Flags uint32    `abi:"flags"`
	Pad   uint32    `abi:"pad"`
	U     [8]uint32 `abi:"u"`
}

// maxRoutes bounds the routing table: the controllers' pins and the MSIs.
const maxRoutes = 1024

type routing struct {
	Nr      uint32 `abi:"nr"`
	Flags   uint32 `abi:"flags"`
	Entries [maxRoutes]routingEntry
}

type irqfd struct {
	FD         uint32    `abi:"fd"`
	GSI        uint32    `abi:"gsi"`
	Flags      uint32    `abi:"flags"`
	ResampleFD uint32    `abi:"resamplefd"`
	Pad        [16]uint8 `abi:"pad"`
}

type ioeventfd struct {
	DataMatch uint64    `abi:"datamatch"`
	Addr      uint64    `abi:"addr"`
	Len       uint32    `abi:"len"`
	FD        int32     `abi:"fd"`
	Flags     uint32    `abi:"flags"`
	Pad       [36]uint8 `abi:"pad"`
}

type pitConfig struct {
	Flags uint32     `abi:"flags"`
	Pad   [15]uint32 `abi:"pad"`
}

// The kernel's own devices are kept whole, as bytes.
type pitState2 [112]byte

type irqchip struct {
	ChipID uint32    `abi:"chip_id"`
	Pad    uint32    `abi:"pad"`
	Chip   [512]byte `abi:"chip"`
}

type (
	mpState    struct{ State uint32 }
	lapicState [1024]byte
	vcpuEvents [64]byte
	debugRegs  [128]byte
	xsave      [4096]byte
	xcrs       [392]byte
)

type clockData struct {
	Clock    uint64    `abi:"clock"`
	Flags    uint32    `abi:"flags"`
	Pad0     uint32    // of the C structure too
	Realtime uint64    `abi:"realtime"`
	HostTSC  uint64    `abi:"host_tsc"`
	Pad      [4]uint32 // of the C structure too
}

type msi struct {
	AddressLo uint32    `abi:"address_lo"`
	AddressHi uint32    `abi:"address_hi"`
	Data      uint32    `abi:"data"`
	Flags     uint32    `abi:"flags"`
	Pad       [16]uint8 // of the C structure too
}

// runPage is struct kvm_run. immediate_exit is byte 1 of Control, written whole
// so that it can be atomic.
type runPage struct {
	Control    uint32 // request_interrupt_window, immediate_exit, 2 padding bytes
	_          uint32
	ExitReason uint32 `abi:"exit_reason"`
	ReadyIRQ   uint8  `abi:"ready_for_interrupt_injection"`
	IFFlag     uint8  `abi:"if_flag"`
	Flags      uint16 `abi:"flags"`
	CR8        uint64 `abi:"cr8"`
	APICBase   uint64 `abi:"apic_base"`
	U          [256]byte
	ValidRegs  uint64 `abi:"kvm_valid_regs"`
	DirtyRegs  uint64 `abi:"kvm_dirty_regs"`
	Regs       kregs  // the first of the synchronised state, at "s"
	_          [2048 - 144]byte
}

const immediateExit = 1 << 8 // in runPage.Control

// Views of runPage.U.
type (
	runIO struct {
		Direction  uint8  `abi:"io.direction"`
		Size       uint8  `abi:"io.size"`
		Port       uint16 `abi:"io.port"`
		Count      uint32 `abi:"io.count"`
		DataOffset uint64 `abi:"io.data_offset"`
	}
	runMMIO struct {
		PhysAddr uint64  `abi:"mmio.phys_addr"`
		Data     [8]byte `abi:"mmio.data"`
		Len      uint32  `abi:"mmio.len"`
		IsWrite  uint8   `abi:"mmio.is_write"`
	}
	runFailEntry struct {
		Reason uint64 `abi:"fail_entry.hardware_entry_failure_reason"`
		CPU    uint32 `abi:"fail_entry.cpu"`
	}
	runInternal struct {
		Suberror uint32     `abi:"internal.suberror"`
		Ndata    uint32     `abi:"internal.ndata"`
		Data     [16]uint64 `abi:"internal.data"`
	}
	runEmulation struct {
		Suberror  uint32
		Ndata     uint32
		Flags     uint64   `abi:"emulation_failure.flags"`
		InsnSize  uint8    `abi:"emulation_failure.insn_size"`
		InsnBytes [15]byte `abi:"emulation_failure.insn_bytes"`
	}
	runSystemEvent struct {
		Type  uint32 `abi:"system_event.type"`
		Ndata uint32 `abi:"system_event.ndata"`
	}
)
