// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// Space is an amount of space.
type Space struct {
	Used, Compressed, Uncompressed uint64 // bytes
}

// Written gives what a dataset or snapshot has written since a snapshot or bookmark of it.
func (h *Handle) Written(ctx context.Context, name, since string) (Space, error) {
	const op = "written"
	if err := checkAny(op, name); err != nil {
		return Space{}, err
	}
	if err := checkAny(op, since); err != nil {
		return Space{}, err
	}
	r := h.dev.Request(name)
	defer r.Release()
	zcmd.SetString(r.Cmd.Value[:], since)
	err := r.DoOnce(ctx, zcmd.SpaceWritten)
	return Space{r.Cmd.Cookie, r.Cmd.ObjsetType, r.Cmd.PermAction}, hint(fail(op, zcmd.SpaceWritten, name, err), nil, "since "+since)
}

// Reclaimed gives what destroying the snapshots from first to last, of one dataset, would free.
func (h *Handle) Reclaimed(ctx context.Context, first, last string) (Space, error) {
	const op = "space of snapshots"
	if err := checkName(op, first, '@'); err != nil {
		return Space{}, err
	}
	if err := checkName(op, last, '@'); err != nil {
		return Space{}, err
	}
	out, err := h.call(ctx, op, zcmd.SpaceSnaps, last, nvlist.New(nvlist.P("firstsnap", first)))
	var s Space
	s.Used, _ = out.Uint("used")
	s.Compressed, _ = out.Uint("compressed")
	s.Uncompressed, _ = out.Uint("uncompressed")
	return s, err
}

// Account is whose space or quota it is (zfs_userquota_prop_t), zfs-userspace(8).
type Account uint64

// The accounts.
const (
	UserUsed Account = iota
	UserQuota
	GroupUsed
	GroupQuota
	UserObjectsUsed
	UserObjectsQuota
	GroupObjectsUsed
	GroupObjectsQuota
	ProjectUsed
	ProjectQuota
	ProjectObjectsUsed
	ProjectObjectsQuota
)

var accountNames = [...]string{"userused@", "userquota@", "groupused@", "groupquota@", "userobjused@", "userobjquota@",
	"groupobjused@", "groupobjquota@", "projectused@", "projectquota@", "projectobjused@", "projectobjquota@"}

// AccountSpace is what one user, group or project has.
type AccountSpace struct {
	Domain string // of an SMB identity
	ID     uint32
	Value  uint64 // bytes, or objects
}

const (
	accountSize  = 272 // zfs_useracct_t
	accountBatch = 500 * accountSize
)

// Userspace walks what users, groups or projects use of a file system or snapshot, or their quotas.
func (h *Handle) Userspace(ctx context.Context, name string, what Account) iter.Seq2[AccountSpace, error] {
	const op = "userspace"
	return func(yield func(AccountSpace, error) bool) {
		if err := checkAny(op, name); err != nil {
			yield(AccountSpace{}, err)
			return
		}
		r := h.dev.Request(name)
		defer r.Release()
		for {
			r.Cmd.ObjsetType = uint64(what)
			if err := r.DoSized(ctx, zcmd.UserspaceMany, accountBatch); err != nil {
				yield(AccountSpace{}, fail(op, zcmd.UserspaceMany, name, err))
				return
			}
			b := r.Raw()
			if len(b) < accountSize {
				return
			}
			for ; len(b) >= accountSize; b = b[accountSize:] {
				a := AccountSpace{zcmd.String(b[:256]), binary.LittleEndian.Uint32(b[256:]), le64(b[264:])}
				if !yield(a, nil) {
					return
				}
			}
		}
	}
}

// SetQuota sets the quota of a user, group or project on a file system, 0 for
// none; what is one of the quota accounts.
func (h *Handle) SetQuota(ctx context.Context, name string, what Account, id uint32, quota uint64) error {
	const op = "set quota"
	if err := checkName(op, name, 0); err != nil {
		return err
	}
	if what > ProjectObjectsQuota || what&1 == 0 {
		return &Error{Op: op, Name: name, Kind: ErrInvalid, Hint: "not a quota"}
	}
	prop := fmt.Sprintf("%s%x-", accountNames[what], id)
	return h.setList(ctx, op, name, nvlist.New(nvlist.P(prop, []uint64{uint64(what), uint64(id), quota})))
}
