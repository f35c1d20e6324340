// SPDX-License-Identifier: BSD-2-Clause

// Package cloudinit writes the NoCloud seed that tells a guest who it is:
// user-data, meta-data, network-config (versions 2 and 1) and vendor-data, and
// the ISO 9660 image labelled cidata that carries them. What cloud-init, and
// FreeBSD's nuageinit, make of them is in cloud-init's own reference
// ("NoCloud", "Network config v1/v2", "Module reference").
//
// The same Seed gives the same bytes, always. Whatever is in it comes from a
// client: every string is checked or quoted, every size is bounded, and nothing
// is written anywhere but to the caller's writer.
//
// The package may be imported by skep and by the commands. It must not import
// vmm, zfs, netif, image, jail, skep or api.
package cloudinit
