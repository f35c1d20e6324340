// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// CreateBookmarks makes bookmarks of snapshots or of other bookmarks (since
// 2.0) of the same dataset: "DATASET#NAME" to what it is made of. All or none.
func (h *Handle) CreateBookmarks(ctx context.Context, marks map[string]string) error {
	const op = "bookmark"
	in := nvlist.New()
	names := sortedNames(marks)
	for _, n := range names {
		if err := errors.Join(checkName(op, n, '#'), checkAny(op, marks[n])); err != nil {
			return err
		}
		nvlist.Set(in, n, marks[n])
	}
	if len(names) == 0 {
		return nil
	}
	if err := onePool(op, names); err != nil {
		return err
	}
	out, err := h.call(ctx, op, zcmd.Bookmark, pool(names[0]), in)
	return perName(op, zcmd.Bookmark, names, out, err)
}

// DestroyBookmarks destroys bookmarks of one pool: all of them or none. Those that are not there count as destroyed.
func (h *Handle) DestroyBookmarks(ctx context.Context, names []string) error {
	const op = "destroy"
	in := nvlist.New()
	for _, n := range names {
		if err := checkName(op, n, '#'); err != nil {
			return err
		}
		nvlist.Set(in, n, nvlist.Flag{})
	}
	if len(names) == 0 {
		return nil
	}
	if err := onePool(op, names); err != nil {
		return err
	}
	out, err := h.call(ctx, op, zcmd.DestroyBookmark, pool(names[0]), in)
	return perName(op, zcmd.DestroyBookmark, names, out, err)
}

// Bookmarks lists the bookmarks of a dataset with their properties.
func (h *Handle) Bookmarks(ctx context.Context, name string) ([]*Dataset, error) {
	const op = "list"
	if err := checkName(op, name, 0); err != nil {
		return nil, err
	}
	in := nvlist.New()
	for _, prop := range []string{"guid", "createtxg", "creation", "referenced", "logicalreferenced", "redact_snaps"} {
		nvlist.Set(in, prop, nvlist.Flag{})
	}
	out, err := h.call(ctx, op, zcmd.GetBookmarks, name, in)
	if err != nil {
		return nil, err
	}
	var list []*Dataset
	for mark, v := range out.All() {
		list = append(list, bookmark(name+"#"+mark, v.List()))
	}
	return list, nil
}

func bookmark(name string, props *nvlist.List) *Dataset {
	d := &Dataset{Name: name, Kind: Bookmark, props: props}
	d.GUID, _ = props.List("guid").Uint("value")
	d.CreateTxg, _ = props.List("createtxg").Uint("value")
	return d
}

func (h *Handle) getBookmark(ctx context.Context, op, name string) (*Dataset, error) {
	if err := checkName(op, name, '#'); err != nil {
		return nil, err
	}
	fs, mark, _ := strings.Cut(name, "#")
	all, err := h.Bookmarks(ctx, fs)
	if err != nil {
		return nil, err
	}
	for _, b := range all {
		if b.Name == fs+"#"+mark {
			return b, nil
		}
	}
	return nil, &Error{Op: op, Name: name, Kind: ErrNotFound}
}

// Hold puts a tag on snapshots of one pool, so that they cannot be destroyed: all
// of them or none. Where one is not there (ErrNotFound) the others were held for a
// moment, and if their release fails as well the error says so. With untilClose the
// holds are released when the handle is closed, however the process ends.
func (h *Handle) Hold(ctx context.Context, tag string, snapshots []string, untilClose bool) error {
	const op = "hold"
	holds := nvlist.New()
	for _, n := range snapshots {
		if err := checkTag(op, n, tag); err != nil {
			return err
		}
		nvlist.Set(holds, n, tag)
	}
	if len(snapshots) == 0 {
		return nil
	}
	if err := onePool(op, snapshots); err != nil {
		return err
	}
	in := nvlist.New(nvlist.P("holds", holds))
	if untilClose {
		nvlist.Set(in, "cleanup_fd", h.dev.Fd())
	}
	out, err := h.call(ctx, op, zcmd.Hold, pool(snapshots[0]), in)
	missing := perName(op, zcmd.Hold, snapshots, out, err)
	if err != nil || missing == nil {
		return missing
	}
	// The kernel passes over snapshots that are not there and holds the others.
	held := slices.DeleteFunc(slices.Clone(snapshots), out.Has)
	return errors.Join(missing, h.Release(context.WithoutCancel(ctx), tag, held))
}

func checkTag(op, name, tag string) error {
	if err := checkName(op, name, '@'); err != nil {
		return err
	}
	if tag == "" || len(tag) > MaxName || strings.IndexByte(tag, 0) >= 0 {
		return &Error{Op: op, Name: name, Kind: ErrInvalidName, Hint: "a tag has 1 to 255 bytes"}
	}
	return nil
}

// Release takes a tag off snapshots of one pool. Those that are not there and
// those without the tag are passed over: ErrNotFound names each, and the tag is off
// all others. Any other error leaves all as they were.
func (h *Handle) Release(ctx context.Context, tag string, snapshots []string) error {
	const op = "release"
	in := nvlist.New()
	for _, n := range snapshots {
		if err := checkTag(op, n, tag); err != nil {
			return err
		}
		nvlist.Set(in, n, nvlist.New(nvlist.P(tag, nvlist.Flag{})))
	}
	if len(snapshots) == 0 {
		return nil
	}
	if err := onePool(op, snapshots); err != nil {
		return err
	}
	out, err := h.call(ctx, op, zcmd.Release, pool(snapshots[0]), in)
	return perName(op, zcmd.Release, snapshots, out, err)
}

// Holds gives the tags on a snapshot and when they were put there.
func (h *Handle) Holds(ctx context.Context, snapshot string) (map[string]time.Time, error) {
	const op = "holds"
	if err := checkName(op, snapshot, '@'); err != nil {
		return nil, err
	}
	out, err := h.call(ctx, op, zcmd.GetHolds, snapshot, nil)
	if err != nil {
		return nil, err
	}
	tags := map[string]time.Time{}
	for tag, v := range out.All() {
		n, _ := v.Int()
		tags[tag] = time.Unix(n, 0)
	}
	return tags, nil
}
