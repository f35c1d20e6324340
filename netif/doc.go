// SPDX-License-Identifier: BSD-2-Clause

// Package netif makes, describes and removes the network interfaces that
// machines need: bridges, taps, pairs (veth on Linux, epair on FreeBSD), VLANs
// and VXLAN tunnels, and hands out addresses from a pool.
//
// A specification (BridgeSpec, TapSpec, ...) is a value that anyone can build
// and compare; Conn turns it into an interface of the kernel. Whatever Conn
// creates carries a mark in the interface's description (ifalias on Linux,
// SIOCSIFDESCR on FreeBSD), so that after a crash the interfaces of skep are
// found and removed and nobody else's is touched.
//
// The exported API is the same on every system; the system's part sits behind
// the unexported interface kernel in *_linux.go and *_freebsd.go.
//
// The package may be imported by skep and by the commands. It must not import
// vmm, zfs, cloudinit, image, jail, skep or api.
package netif
