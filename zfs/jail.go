// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"

	"github.com/skepvm/skep/zfs/internal/zcmd"
)

// Jail gives a file system with jailed=on to a jail, by its id. On Linux it fails with errors.ErrUnsupported.
func (h *Handle) Jail(ctx context.Context, name string, jid int) error {
	return h.jailCall(ctx, "jail", zcmd.Jail, name, jid)
}

// Unjail takes a file system from a jail. On Linux it fails with errors.ErrUnsupported.
func (h *Handle) Unjail(ctx context.Context, name string, jid int) error {
	return h.jailCall(ctx, "unjail", zcmd.Unjail, name, jid)
}
