// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"

	"github.com/skepvm/skep/zfs/internal/zcmd"
)

func (h *Handle) jailCall(ctx context.Context, op string, req zcmd.Op, name string, jid int) error {
	if err := checkName(op, name, 0); err != nil {
		return err
	}
	r := h.dev.Request(name)
	defer r.Release()
	r.Cmd.ZoneID = uint64(jid)
	return fail(op, req, name, r.DoOnce(ctx, req))
}
