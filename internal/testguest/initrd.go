// SPDX-License-Identifier: BSD-2-Clause

package testguest

import (
	"fmt"
	"io"
	"strings"

	"github.com/skepvm/skep/internal/cpio"
)

// A Module is a kernel module of the initrd.
type Module struct {
	Name    string // file name
	Content []byte
}

// Modules are those that the initrd carries if the kernel has them.
var Modules = []string{
	"virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng",
	"button", "evdev", "9p", "9pnet_virtio", "vmw_vsock_virtio_transport",
}

// WriteInitrd writes the guest's initrd: init as /init and the modules, which
// are loaded in this order.
func WriteInitrd(w io.Writer, init []byte, modules []Module) error {
	a := cpio.NewWriter(w)
	for _, d := range []string{"dev", "proc", "sys", "modules", "mnt"} {
		if err := a.Dir(d, 0o755); err != nil {
			return err
		}
	}
	// Without a console at the start Go's runtime wants /dev/null instead.
	if err := a.CharDevice("dev/null", 0o666, 1, 3); err != nil {
		return err
	}
	if err := a.CharDevice("dev/console", 0o600, 5, 1); err != nil {
		return err
	}
	if err := a.File(strings.TrimPrefix(Marker, "/"), 0o644, nil); err != nil {
		return err
	}
	if err := a.File("init", 0o755, init); err != nil {
		return err
	}
	var list strings.Builder
	for _, m := range modules {
		fmt.Fprintln(&list, m.Name)
		if err := a.File("modules/"+m.Name, 0o644, m.Content); err != nil {
			return err
		}
	}
	if err := a.File("modules/list", 0o644, []byte(list.String())); err != nil {
		return err
	}
	return a.Close()
}
