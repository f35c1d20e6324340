// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"syscall"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// Clone makes a dataset of a snapshot of the same pool.
func (h *Handle) Clone(ctx context.Context, snapshot, name string, props Props) error {
	const op = "clone"
	if err := errors.Join(checkName(op, snapshot, '@'), checkName(op, name, 0), onePool(op, []string{snapshot, name})); err != nil {
		return err
	}
	in := nvlist.New(nvlist.P("origin", snapshot))
	if len(props) > 0 {
		l, err := encodeProps(op, name, 0, props, true)
		if err != nil {
			return err
		}
		nvlist.Set(in, "props", l)
	}
	out, err := h.call(ctx, op, zcmd.Clone, name, in)
	err = perProp(op, zcmd.Clone, name, out, err)
	if isKind(err, ErrNotFound) {
		return hint(err, nil, "the snapshot "+snapshot+" or the parent does not exist")
	}
	return hint(err, nil, "of "+snapshot)
}

// SnapshotAndClone takes a snapshot and makes a clone of it, both or neither.
//
// Where the module can (2.4 and later, to root) a channel program does it in one
// transaction group, up to four user properties included; else the snapshot, the clone
// and its properties wait for one each.
func (h *Handle) SnapshotAndClone(ctx context.Context, snapshot, name string, props Props) error {
	const op = "clone"
	if err := errors.Join(checkName(op, snapshot, '@'), checkName(op, name, 0), onePool(op, []string{snapshot, name})); err != nil {
		return err
	}
	// Those of the pool's own must be set by requests, which a program cannot.
	user, native := Props{}, Props{}
	for p, v := range props {
		if isUser(p) {
			user[p] = v
		} else {
			native[p] = v
		}
	}
	l, err := encodeProps(op, name, 0, user, true)
	if err != nil {
		return err
	}
	if _, err := encodeProps(op, name, 0, native, true); err != nil {
		return err
	}
	if len(native) == 0 && len(user) <= maxCloneProps && h.known().AtLeast(2, 4) {
		if done, err := h.cloneProgram(ctx, snapshot, name, l); done {
			return err
		}
	}
	if err := h.CreateSnapshots(ctx, []string{snapshot}, nil); err != nil {
		return err
	}
	err = h.Clone(ctx, snapshot, name, props)
	if err != nil {
		err = errors.Join(err, h.DestroySnapshots(context.WithoutCancel(ctx), []string{snapshot}, false))
	}
	return err
}

// maxCloneProps keeps cloneSteps below 100 of Lua's instructions. After as many a
// signal to this process stops a program where it is (zcp_lua_counthook), and what
// it has done stays.
const maxCloneProps = 4

// cloneSteps gives 0 where it cannot be done so, and else the step that failed
// (1 the snapshot, 2 the clone, 3 a property) with its errno, 0 for none.
const cloneSteps = `
args = ...
if zfs.sync.clone == nil or zfs.sync.set_prop == nil then
	return {step = 0, errno = 0}
end
err = zfs.sync.snapshot(args["snapshot"])
if err ~= 0 then
	return {step = 1, errno = err}
end
err = zfs.sync.clone(args["snapshot"], args["name"])
if err ~= 0 then
	zfs.sync.destroy(args["snapshot"])
	return {step = 2, errno = err}
end
for prop, value in pairs(args["props"]) do
	err = zfs.sync.set_prop(args["name"], prop, value)
	if err ~= 0 then
		zfs.sync.destroy(args["name"])
		zfs.sync.destroy(args["snapshot"])
		return {step = 3, errno = err}
	end
end
return {step = 3, errno = 0}
`

// cloneProgram reports false where a program cannot do it here: nothing was done then.
func (h *Handle) cloneProgram(ctx context.Context, snapshot, name string, props *nvlist.List) (done bool, err error) {
	v, err := h.Run(ctx, pool(name), cloneSteps, ProgramOptions{
		Sync: true, Args: nvlist.New(nvlist.P("snapshot", snapshot), nvlist.P("name", name), nvlist.P("props", props)),
	})
	if isKind(err, ErrPermission) {
		return false, nil // who was given clone and snapshot alone, by zfs allow
	}
	if err != nil {
		return true, err
	}
	step, ok := v.List().Uint("step")
	errno, ok2 := v.List().Uint("errno")
	if !ok || !ok2 {
		return true, &Error{Op: "clone", Name: name, Kind: ErrProgram, Hint: "it gave " + v.List().String()}
	}
	switch {
	case step == 0:
		return false, nil
	case errno == 0:
		return true, nil
	case step == 1 && syscall.Errno(errno) == syscall.EAGAIN:
		return false, nil // another snapshot of the dataset is in this transaction group: a request waits for the next
	case step == 1:
		return true, fail("snapshot", zcmd.Snapshot, snapshot, syscall.Errno(errno))
	case step == 2:
		return true, hint(fail("clone", zcmd.Clone, name, syscall.Errno(errno)), nil, "of "+snapshot)
	}
	return true, hint(fail("set", zcmd.SetProp, name, syscall.Errno(errno)), nil, "of "+snapshot)
}
