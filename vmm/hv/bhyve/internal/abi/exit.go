// SPDX-License-Identifier: BSD-2-Clause

package abi

// The members of the union of struct vm_exit, read from its words: member at
// byte offset o of the structure is in U[(o-16)/8]. machine/vmm.h has the shapes.

// u32 is the 32-bit member at byte offset o of struct vm_exit.
func (e *Exit) u32(o int) uint32 {
	return uint32(e.U[(o-16)/8] >> (8 * (o % 8)))
}

func (e *Exit) u8(o int) uint8 { return uint8(e.U[(o-16)/8] >> (8 * (o % 8))) }

// Inout is struct vm_inout.
type Inout struct {
	Bytes  int // 1, 2 or 4
	In     bool
	String bool
	Rep    bool
	Port   uint16
	Eax    uint32
}

// Inout is valid for VM_EXITCODE_INOUT and, as its first part, INOUT_STR.
func (e *Exit) Inout() Inout {
	bits := e.u32(16)
	return Inout{
		Bytes: int(bits & 7), In: bits&8 != 0, String: bits&16 != 0, Rep: bits&32 != 0,
		Port: uint16(bits >> 16), Eax: e.u32(20),
	}
}

// InoutStr is struct vm_inout_str without what skep does not use of it: of cs_d
// and cs_base, which only 15 has, the kernel makes use itself. Where the processor
// does not say which segment OUTS reads (AMD without DecodeAssist), it takes it from
// the instruction before VM_RUN returns (vmm_ioport.c).
type InoutStr struct {
	Inout
	Paging   Paging
	Rflags   uint64
	Index    uint64
	Count    uint64
	Addrsize int // 2, 4 or 8 bytes
	SegName  int32
	SegBase  uint64
}

// InoutStr is valid for VM_EXITCODE_INOUT_STR.
func (e *Exit) InoutStr() InoutStr {
	return InoutStr{
		Inout:    e.Inout(),
		Paging:   e.paging(24),
		Rflags:   e.U[(48-16)/8],
		Index:    e.U[(64-16)/8],
		Count:    e.U[(72-16)/8],
		Addrsize: int(e.u32(80)),
		SegName:  int32(e.u32(84)),
		SegBase:  e.U[(88-16)/8],
	}
}

func (e *Exit) paging(o int) Paging {
	return Paging{Cr3: e.U[(o-16)/8], Cpl: int32(e.u32(o + 8)), CPUMode: int32(e.u32(o + 12)), PagingMode: int32(e.u32(o + 16))}
}

// InstEmul is the member inst_emul with the bytes of its struct vie.
type InstEmul struct {
	Gpa    uint64
	Gla    uint64
	CsBase uint64
	CsD    bool
	Paging Paging
	Inst   [15]byte
	Valid  int // bytes in Inst
}

// InstEmul is valid for VM_EXITCODE_INST_EMUL.
func (e *Exit) InstEmul() InstEmul {
	i := InstEmul{
		Gpa: e.U[0], Gla: e.U[1], CsBase: e.U[2], CsD: e.u32(40) != 0, Paging: e.paging(48),
		Valid: min(int(e.u8(72+15)), 15),
	}
	for k := range i.Inst {
		i.Inst[k] = e.u8(72 + k)
	}
	return i
}

// MSR is valid for VM_EXITCODE_RDMSR and WRMSR: the register and, for a write,
// its value.
func (e *Exit) MSR() (code uint32, value uint64) { return e.u32(16), e.U[1] }

// SpinupAP is valid for VM_EXITCODE_SPINUP_AP: the vCPU to start and the address
// of its first instruction.
func (e *Exit) SpinupAP() (vcpu int, rip uint64) { return int(int32(e.u32(16))), e.U[1] }

// Suspended is valid for VM_EXITCODE_SUSPENDED: a VM_SUSPEND number.
func (e *Exit) Suspended() int32 { return int32(e.u32(16)) }

// Paging is valid for VM_EXITCODE_PAGING.
func (e *Exit) PagingGPA() uint64 { return e.U[0] }
