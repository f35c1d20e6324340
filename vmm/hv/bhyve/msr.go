// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import "github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"

// The kernel answers the MSRs that matter and hands up the others. Those that
// guests touch without guarding themselves against a fault are in msrs; all else
// is a #GP, which is how a processor says that it has no such register.

// msr is how an MSR reads; writes to it are ignored.
type msr struct{ value uint64 }

var msrs = map[uint32]msr{
	// Common.
	0x0000008b: {},        // IA32_BIOS_SIGN_ID: microcode revision
	0x00000017: {},        // IA32_PLATFORM_ID
	0x0000003a: {0x1},     // IA32_FEATURE_CONTROL: locked, no VMX
	0x00000140: {},        // MISC_FEATURE_ENABLES
	0x000001a0: {0x1},     // IA32_MISC_ENABLE: fast strings
	0x00000079: {},        // IA32_BIOS_UPDT_TRIG
	0x00000606: {0xa1003}, // RAPL_POWER_UNIT (SDM's default)
	0x00000611: {},        // PKG_ENERGY_STATUS
	0x00000619: {},        // DRAM_ENERGY_STATUS
	0x00000639: {},        // PP0_ENERGY_STATUS
	0x00000641: {},        // PP1_ENERGY_STATUS

	// AMD (BIOS and Kernel Developer's Guides).
	0xc0010015: {0x01000210}, // HWCR: reset value, MONITOR and MWAIT disabled
	0xc001001f: {},           // NB_CFG1
	0xc0011020: {},           // LS_CFG
	0xc0011021: {},           // IC_CFG
	0xc0011029: {0x1},        // DE_CFG: erratum 721 is worked around
	0xc0010000: {},           // PerfEvtSel0-3
	0xc0010001: {},
	0xc0010002: {},
	0xc0010003: {},
	0xc0010004: {}, // PerfCtr0-3
	0xc0010005: {},
	0xc0010006: {},
	0xc0010007: {},
	0xc0010061: {}, // P-state limit, control, status, first configuration
	0xc0010062: {},
	0xc0010063: {},
	0xc0010064: {},
	0xc0010112: {},     // SMM_ADDR
	0xc0010113: {},     // SMM_MASK
	0xc0010114: {0x10}, // VM_CR: SVM disabled
}

const vectorGP = 13

func (v *vcpu) readMSR(code uint32) error {
	m, ok := msrs[code]
	if !ok {
		return v.inject(vectorGP, 0)
	}
	if err := v.setReg(abi.VM_REG_GUEST_RAX, m.value&0xffffffff); err != nil {
		return err
	}
	return v.setReg(abi.VM_REG_GUEST_RDX, m.value>>32)
}

func (v *vcpu) writeMSR(code uint32, _ uint64) error {
	if _, ok := msrs[code]; !ok {
		return v.inject(vectorGP, 0)
	}
	return nil
}
