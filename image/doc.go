// SPDX-License-Identifier: BSD-2-Clause

// Package image brings cloud images to the host: a catalogue of what there is,
// fetching with resume and retries, verification, decompression (gzip, xz,
// zstd), conversion (qcow2) to a sparse raw file in a store, and cloning from
// there: warmed once, cloned many times.
//
// An image comes from anybody. Whatever it says of itself is checked before it
// is believed: a qcow2 file with a backing file, an external data file or
// encryption, tables that point outside of it, virtual sizes and compression
// ratios without measure are refused, and leave nothing behind. An image that
// is in the store was verified, written whole, synced and renamed.
//
// The package may be imported by skep and by the commands. It must not import
// vmm, zfs, netif, cloudinit, jail, skep or api.
package image
