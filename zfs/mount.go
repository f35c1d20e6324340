// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
)

// MountOptions are how a file system is mounted.
type MountOptions struct {
	At       string // where, in place of the mountpoint property
	ReadOnly bool
}

// Mount mounts a file system where its mountpoint property says, or elsewhere,
// by the properties that it has (atime, exec, setuid, devices, readonly). The
// directory is made if it is missing. One that is mounted already is ErrBusy.
func (h *Handle) Mount(ctx context.Context, name string, o MountOptions) error {
	const op = "mount"
	if err := checkName(op, name, 0); err != nil {
		return err
	}
	d, err := h.get(ctx, op, name, true)
	if err != nil {
		return err
	}
	at := o.At
	if at == "" {
		d.altroot = h.altroot(ctx, name)
		at = d.Value("mountpoint")
	}
	switch {
	case d.Kind != Filesystem:
		return &Error{Op: op, Name: name, Kind: ErrInvalid, Hint: "not a file system but a " + d.Kind.String()}
	case !strings.HasPrefix(at, "/") || strings.IndexByte(at, 0) >= 0:
		return &Error{Op: op, Name: name, Kind: ErrInvalid, Hint: "the mount point is " + at}
	case d.Value("keystatus") == "unavailable":
		return &Error{Op: op, Name: name, Kind: ErrKeyNotLoaded}
	}
	if where, err := mountedAt(name); err != nil {
		return &Error{Op: op, Name: name, Err: err}
	} else if len(where) > 0 && o.At == "" {
		return &Error{Op: op, Name: name, Kind: ErrBusy, Hint: "mounted on " + where[0]}
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return &Error{Op: op, Name: name, Err: err}
	}
	if err := canceled(ctx, op, name); err != nil {
		return err
	}
	if err := mount(name, at, d, o.ReadOnly || d.Value("readonly") == "on"); err != nil {
		e := &Error{Op: op, Name: name, Kind: generalKinds[errnoOf(err)], Err: err, Hint: "on " + at}
		return e
	}
	return nil
}

func errnoOf(err error) syscall.Errno {
	var e syscall.Errno
	errors.As(err, &e)
	return e
}

// Mounted gives where a file system is mounted, nothing if it is not.
func (h *Handle) Mounted(name string) ([]string, error) {
	where, err := mountedAt(name)
	if err != nil {
		return nil, &Error{Op: "mounted", Name: name, Err: err}
	}
	return where, nil
}

func mountedAt(name string) ([]string, error) {
	all, err := mounts()
	return points(all[name]), err
}

// Unmount unmounts a file system from wherever it is mounted; one that is not
// mounted is no error. force takes it from those who use it. In a pool that is
// suspended it would wait for good, and fails with ErrSuspended.
func (h *Handle) Unmount(ctx context.Context, name string, force bool) error {
	const op = "unmount"
	if err := checkName(op, name, 0); err != nil {
		return err
	}
	where, err := mountedAt(name)
	if err != nil {
		return &Error{Op: op, Name: name, Err: err}
	}
	if len(where) > 0 {
		if err := h.runs(ctx, op, name); err != nil {
			return err
		}
	}
	return unmountFrom(ctx, op, name, where, force)
}

// runs fails if the pool is suspended: an unmount writes, and no signal ends its wait.
func (h *Handle) runs(ctx context.Context, op, name string) error {
	if p, err := h.Pool(ctx, pool(name)); err == nil && p.Suspended {
		return &Error{Op: op, Name: name, Kind: ErrSuspended}
	}
	return nil
}

func unmountFrom(ctx context.Context, op, name string, where []string, force bool) error {
	for _, at := range slices.Backward(where) {
		if err := canceled(ctx, op, name); err != nil {
			return err
		}
		if err := unmount(at, force); err != nil {
			return &Error{Op: op, Name: name, Kind: generalKinds[errnoOf(err)], Err: err, Hint: "from " + at}
		}
	}
	return nil
}

// unmountAll unmounts the file systems, the deepest mount points first, and mounts none of them again if one fails:
// they are about to be destroyed.
func (h *Handle) unmountAll(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	all, err := mounts()
	if err != nil {
		return &Error{Op: "unmount", Err: err}
	}
	type entry struct{ name, at string }
	var list []entry
	for _, n := range names {
		for _, m := range all[n] {
			list = append(list, entry{n, m.at})
		}
	}
	if len(list) > 0 {
		if err := h.runs(ctx, "unmount", list[0].name); err != nil {
			return err
		}
	}
	slices.SortFunc(list, func(a, b entry) int { return len(b.at) - len(a.at) })
	for _, e := range list {
		if err := unmountFrom(ctx, "unmount", e.name, []string{e.at}, false); err != nil {
			return err
		}
	}
	return nil
}
