// SPDX-License-Identifier: BSD-2-Clause

package net

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// setup prepares a tap and finds out what it can do (linux/if_tun.h).
func (b *file) setup() (Offload, error) {
	if err := unix.IoctlSetPointerInt(b.fd, unix.TUNSETVNETHDRSZ, HeaderSize); err != nil {
		return 0, fmt.Errorf("set header size: %w", err)
	}
	can := Csum | TSO4 | TSO6 | ECN
	if err := b.setOffload(can); err != nil {
		return 0, fmt.Errorf("set offload: %w", err)
	}
	// Newer kernels only, each by itself.
	for _, o := range []Offload{UFO, USO4 | USO6} {
		if b.setOffload(can|o) == nil {
			can |= o
		}
	}
	return can, b.setOffload(0)
}

func (b *file) setOffload(o Offload) error {
	var flags int
	for _, f := range []struct {
		o Offload
		f int
	}{
		{Csum, unix.TUN_F_CSUM}, {TSO4, unix.TUN_F_TSO4}, {TSO6, unix.TUN_F_TSO6}, {ECN, unix.TUN_F_TSO_ECN},
		{UFO, unix.TUN_F_UFO}, {USO4, unix.TUN_F_USO4}, {USO6, unix.TUN_F_USO6},
	} {
		if o&f.o != 0 {
			flags |= f.f
		}
	}
	return unix.IoctlSetInt(b.fd, unix.TUNSETOFFLOAD, flags)
}
