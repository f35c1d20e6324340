// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"

	"github.com/skepvm/skep/zfs/internal/zcmd"
)

func (h *Handle) jailCall(_ context.Context, op string, _ zcmd.Op, name string, _ int) error {
	return &Error{Op: op, Name: name, Hint: "jails are of FreeBSD", Err: errors.ErrUnsupported}
}
