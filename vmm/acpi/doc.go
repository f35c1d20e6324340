// SPDX-License-Identifier: BSD-2-Clause

// Package acpi makes the tables through which a guest finds its hardware: ACPI
// (RSDP, RSDT, XSDT, FADT, MADT, FACS, MCFG, HPET, SPCR and a DSDT in AML that
// is emitted here) and SMBIOS. A configuration goes in, bytes and the address
// where they belong come out; nothing is asked of a kernel.
//
// Section numbers are those of the ACPI specification 6.5 and the SMBIOS
// specification 3.4.
//
// It may be imported by vmm. It imports guestmem only.
package acpi
