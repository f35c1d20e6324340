// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"fmt"
	"unsafe"
)

// device is an open /dev/vmm/NAME or /dev/vmmctl, or a test's own kernel.
type device interface {
	// ioctl issues req with a structure of the size that req says.
	ioctl(req uint32, arg unsafe.Pointer) error
}

// call issues req with arg, whose size must be the one in req.
func call[T any](d device, req uint32, arg *T) error {
	if size := req >> 16 & 0x1fff; uintptr(size) != unsafe.Sizeof(*arg) {
		return fmt.Errorf("ioctl %#x wants %d bytes, not %d", req, size, unsafe.Sizeof(*arg))
	}
	return d.ioctl(req, unsafe.Pointer(arg))
}

// callVoid issues a request without argument.
func callVoid(d device, req uint32) error { return d.ioctl(req, nil) }
