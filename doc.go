// SPDX-License-Identifier: BSD-2-Clause

// Package skep makes of a host a small private cloud: it composes the rooms
// vmm, zfs, netif, cloudinit and image into machines that are created, started,
// stopped, cloned, snapshotted and destroyed.
//
// It may be imported by api and by the commands. It must not import api.
package skep
