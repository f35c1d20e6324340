// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"fmt"
	"math/bits"
	"strings"
	"syscall"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// VolumeOptions are how a volume is made.
type VolumeOptions struct {
	Size      uint64 // bytes; rounded up to a multiple of the block size
	BlockSize uint64 // bytes, a power of two from 512 to 16 MiB; 0 for the default
	Sparse    bool   // reserve no space for it
	Props     Props  // further properties
	Key       Key    // the key of an encrypted volume that is its own encryption root
}

// defaultBlockSize is volblocksize where none is given: 16 KiB from OpenZFS 2.2, 8 KiB before.
func (h *Handle) defaultBlockSize() uint64 {
	if h.isOld() {
		return 8 << 10
	}
	return 16 << 10
}

// CreateVolume creates a volume. Its device node may appear a little later: see WaitVolume.
func (h *Handle) CreateVolume(ctx context.Context, name string, o VolumeOptions) error {
	const op = "create"
	block := o.BlockSize
	if block == 0 {
		block = h.defaultBlockSize()
	}
	if block < 512 || block > 16<<20 || bits.OnesCount64(block) != 1 {
		return propError(op, name, "volblocksize", fmt.Sprint(block), "want a power of two from 512 to 16 MiB")
	}
	if o.Size == 0 || o.Size > 1<<62 {
		return propError(op, name, "volsize", fmt.Sprint(o.Size), "want 1 to 2^62")
	}
	size := (o.Size + block - 1) / block * block
	props := Props{}
	for k, v := range o.Props {
		props[k] = v
	}
	props["volsize"], props["volblocksize"] = fmt.Sprint(size), fmt.Sprint(block)
	if _, own := props["refreservation"]; !o.Sparse && !own {
		copies := uint64(1)
		if c := props["copies"]; len(c) == 1 && c >= "1" && c <= "3" {
			copies = uint64(c[0] - '0')
		}
		props["refreservation"] = fmt.Sprint(volumeReservation(size, block, copies))
	}
	return h.create(ctx, name, Volume, objsetVolume, props, o.Key)
}

// volumeReservation is what a volume that is full takes, metadata included, as
// zvol_volsize_to_reservation has it for vdevs without parity.
func volumeReservation(size, block, copies uint64) uint64 {
	const fanout, metaBlock = 1024, 128 << 10
	blocks := size / block
	meta := uint64(7) // the meta-dnode's levels
	for blocks > 1 {
		blocks = (blocks + fanout - 1) / fanout
		meta += blocks
	}
	return size*copies + meta*min(3, copies+1)*metaBlock
}

func (h *Handle) create(ctx context.Context, name string, kind Kind, typ int32, props Props, key Key) error {
	const op = "create"
	if err := checkName(op, name, 0); err != nil {
		return err
	}
	l, err := encodeProps(op, name, kind, props, true)
	if err != nil {
		return err
	}
	in := nvlist.New(nvlist.P("type", typ))
	if err := key.apply(op, name, l, in); err != nil {
		return err
	}
	if len(key) > 0 && !l.Has("encryption") {
		nvlist.Set(l, "encryption", uint64(1)) // on
	}
	if l.Len() > 0 {
		nvlist.Set(in, "props", l)
	}
	out, err := h.call(ctx, op, zcmd.Create, name, in)
	return h.explainCreate(perProp(op, zcmd.Create, name, out, err), name)
}

// perProp names the property that a creation failed for, if the reply does.
func perProp(op string, req zcmd.Op, name string, out *nvlist.List, err error) error {
	if err == nil {
		return nil
	}
	for prop, v := range out.All() {
		if n, ok := v.Int(); ok && n > 0 {
			return hint(fail(op, zcmd.SetProp, name, syscall.Errno(n)), nil, prop)
		}
	}
	return err
}

func (h *Handle) explainCreate(err error, name string) error {
	if isKind(err, ErrNotFound) {
		if i := strings.LastIndexByte(name, '/'); i > 0 {
			return hint(err, nil, "the parent "+name[:i]+" does not exist")
		}
		return hint(err, nil, "no such pool")
	}
	return err
}

// CreateSnapshots takes snapshots, "DATASET@NAME" each, at one instant: all of
// them or none. They are of one pool, one for a dataset. props are user properties.
func (h *Handle) CreateSnapshots(ctx context.Context, names []string, props Props) error {
	const op = "snapshot"
	if len(names) == 0 {
		return nil
	}
	snaps := nvlist.New()
	for _, n := range names {
		if err := checkName(op, n, '@'); err != nil {
			return err
		}
		nvlist.Set(snaps, n, true)
	}
	if err := onePool(op, names); err != nil {
		return err
	}
	in := nvlist.New(nvlist.P("snaps", snaps))
	if len(props) > 0 {
		l, err := encodeProps(op, names[0], Snapshot, props, false)
		if err != nil {
			return err
		}
		nvlist.Set(in, "props", l)
	}
	out, err := h.call(ctx, op, zcmd.Snapshot, pool(names[0]), in)
	return perName(op, zcmd.Snapshot, names, out, err)
}

// CreateSnapshotTree takes a snapshot of a dataset and of all below it at one instant, and gives their names.
func (h *Handle) CreateSnapshotTree(ctx context.Context, root, snap string, props Props) ([]string, error) {
	var names []string
	for d, err := range h.Descend(ctx, root, NamesOnly) {
		if err != nil {
			return nil, err
		}
		names = append(names, d.Name+"@"+snap)
	}
	return names, h.CreateSnapshots(ctx, names, props)
}

func onePool(op string, names []string) error {
	for _, n := range names {
		if pool(n) != pool(names[0]) {
			return &Error{Op: op, Name: n, Kind: ErrCrossesPools, Hint: "the others are of pool " + pool(names[0])}
		}
	}
	return nil
}

// DestroySnapshots destroys snapshots of one pool at one instant: all of them
// or none. Those that are not there count as destroyed. With deferred, one
// that is held or has clones goes when the last of them is gone.
func (h *Handle) DestroySnapshots(ctx context.Context, names []string, deferred bool) error {
	const op = "destroy"
	if len(names) == 0 {
		return nil
	}
	snaps := nvlist.New()
	for _, n := range names {
		if err := checkName(op, n, '@'); err != nil {
			return err
		}
		nvlist.Set(snaps, n, nvlist.Flag{})
	}
	if err := onePool(op, names); err != nil {
		return err
	}
	in := nvlist.New(nvlist.P("snaps", snaps))
	if deferred {
		nvlist.Set(in, "defer", nvlist.Flag{})
	}
	out, err := h.call(ctx, op, zcmd.DestroySnaps, pool(names[0]), in)
	return perName(op, zcmd.DestroySnaps, names, out, err)
}

// Rollback brings a dataset back to a snapshot of its own. It fails with
// ErrNotNewest when newer snapshots or bookmarks exist, unless destroyNewer
// has them destroyed first; clones of those stand in the way all the same.
func (h *Handle) Rollback(ctx context.Context, snapshot string, destroyNewer bool) error {
	const op = "rollback"
	if err := checkName(op, snapshot, '@'); err != nil {
		return err
	}
	fs, _, _ := cutSnapshot(snapshot)
	if destroyNewer {
		if err := h.destroyNewer(ctx, fs, snapshot); err != nil {
			return err
		}
	}
	_, err := h.call(ctx, op, zcmd.Rollback, fs, nvlist.New(nvlist.P("target", snapshot)))
	return hint(err, nil, "to "+snapshot)
}

func (h *Handle) destroyNewer(ctx context.Context, fs, snapshot string) error {
	target, err := h.get(ctx, "rollback", snapshot, false)
	if err != nil {
		return err
	}
	var snaps, marks []string
	for d, err := range h.Descend(ctx, fs, Snapshots, Bookmarks, Depth(0), CreatedBetween(target.CreateTxg+1, 0)) {
		switch {
		case err != nil:
			return err
		case d.Kind == Bookmark && d.CreateTxg >= target.CreateTxg && d.GUID != target.GUID:
			marks = append(marks, d.Name)
		case d.Kind == Snapshot && d.Name != snapshot:
			snaps = append(snaps, d.Name)
		}
	}
	if err := h.DestroySnapshots(ctx, snaps, false); err != nil {
		return err
	}
	return h.DestroyBookmarks(ctx, marks)
}
