// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"os"
)

func volumeNode(name string) (string, error) {
	p := "/dev/zvol/" + name
	_, err := os.Stat(p)
	return p, err
}

// prodVolume makes the kernel try again. A volume that is made with volmode
// dev, where its parent has another, gets a GEOM provider first; where that is
// not all gone when the node that was asked for is made, its name is taken, and
// the volume stays without one (zvol_set_volmode_impl, which drops the error).
func (h *Handle) prodVolume(ctx context.Context, name string) error {
	d, err := h.Get(ctx, name, "volmode")
	if err != nil {
		return err
	}
	if p, _ := d.Property("volmode"); p.Value != "dev" || p.Source != SourceLocal {
		return nil
	}
	if err := h.Set(ctx, name, Props{"volmode": "none"}); err != nil {
		return err
	}
	// Whoever gives up meanwhile must not leave it without a mode.
	return h.Set(context.WithoutCancel(ctx), name, Props{"volmode": "dev"})
}
