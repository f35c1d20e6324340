// SPDX-License-Identifier: BSD-2-Clause

package kvm

import (
	"math/bits"

	"github.com/skepvm/skep/vmm/hv"
)

// guestCPU is what CPUID tells of one vCPU beyond what the host can do.
type guestCPU struct {
	id, count   int
	topology    hv.Topology
	tscKHz      uint32
	tscDeadline bool
}

// shifts are the numbers of APIC id bits for the threads of a core, and for the
// threads of a socket.
func (g guestCPU) shifts() (core, socket int) {
	return bits.Len(uint(g.topology.Threads - 1)), bits.Len(uint(g.topology.Threads*g.topology.Cores - 1))
}

// Leaves and bits that are changed (Intel SDM vol. 2A, "CPUID"; AMD APM vol. 3,
// appendix E; Documentation/virt/kvm/x86/cpuid.rst).
const (
	leafPVTiming = 0x40000010 // EAX: TSC kHz, EBX: bus kHz

	ecx1VMX         = 1 << 5
	ecx1X2APIC      = 1 << 21
	ecx1TSCDeadline = 1 << 24
	ecx1Hypervisor  = 1 << 31
	edx1HTT         = 1 << 28

	ext1SVM         = 1 << 2
	ext1CmpLegacy   = 1 << 1
	ext1PerfCtrCore = 1 << 23
	ext1PerfCtrNB   = 1 << 24
	ext1PerfCtrLLC  = 1 << 28

	busKHz = 1000000 // the local APIC's timer counts at 1 GHz under KVM
)

// buildCPUID makes a vCPU's CPUID from what the host supports. It leaves out
// what a guest should not have (nested virtualization, performance counters)
// and puts in the topology.
func buildCPUID(supported []cpuidEntry, g guestCPU) []cpuidEntry {
	core, socket := g.shifts()
	perSocket := uint32(g.topology.Cores * g.topology.Threads)
	id := uint32(g.id)
	var out []cpuidEntry
	var pv bool
	for _, e := range supported {
		switch e.Function {
		case 1:
			e.EBX = e.EBX&0xffff | id<<24 | min(uint32(1)<<socket, 255)<<16
			e.ECX = e.ECX&^ecx1VMX | ecx1X2APIC | ecx1Hypervisor
			if g.tscDeadline {
				e.ECX |= ecx1TSCDeadline
			}
			e.EDX &^= edx1HTT
			if perSocket > 1 {
				e.EDX |= edx1HTT
			}
		case 4, 0x8000001d:
			if e.EAX&0x1f == 0 {
				break
			}
			sharing := uint32(1)<<core - 1
			if e.EAX>>5&7 >= 3 {
				sharing = uint32(1)<<socket - 1
			}
			e.EAX = e.EAX&0x3fff | sharing<<14
			if e.Function == 4 {
				e.EAX |= (uint32(1)<<(socket-core) - 1) << 26
			}
		case 0xa: // performance counters
			e.EAX, e.EBX, e.ECX, e.EDX = 0, 0, 0, 0
		case 0xb, 0x1f:
			continue // below
		case 0x40000000:
			pv = true
			e.EAX = max(e.EAX, leafPVTiming)
		case leafPVTiming:
			continue
		case 0x80000001:
			e.ECX &^= ext1SVM | ext1PerfCtrCore | ext1PerfCtrNB | ext1PerfCtrLLC | ext1CmpLegacy
			if perSocket > 1 {
				e.ECX |= ext1CmpLegacy
			}
		case 0x80000008:
			e.ECX = uint32(socket)<<12 | (perSocket - 1)
		case 0x8000000a: // SVM
			continue
		case 0x8000001e:
			e.EAX = id
			e.EBX = id>>core | (uint32(g.topology.Threads)-1)<<8
			e.ECX = id >> socket
		case 0x80000022: // performance counters
			continue
		}
		out = append(out, e)
	}
	for i, l := range []struct{ shift, count, kind uint32 }{
		{uint32(core), uint32(g.topology.Threads), 1},
		{uint32(socket), perSocket, 2},
		{0, 0, 0},
	} {
		out = append(out, cpuidEntry{Function: 0xb, Index: uint32(i), Flags: cpuidSignificantIdx,
			EAX: l.shift, EBX: l.count, ECX: uint32(i) | l.kind<<8, EDX: id})
	}
	if pv && g.tscKHz > 0 {
		out = append(out, cpuidEntry{Function: leafPVTiming, EAX: g.tscKHz, EBX: busKHz})
	}
	return out
}
