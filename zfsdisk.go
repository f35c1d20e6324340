// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/skepvm/skep/zfs"
)

// The machines' zvols of a zfsStore.

func (s *zfsStore) cloneImage(ctx context.Context, r *record, img warmImage) error {
	for _, f := range []struct{ from, to string }{{img.kernel, fileKernel}, {img.initrd, fileInitrd}} {
		if f.from == "" {
			continue
		}
		if err := s.copyFile(ctx, f.from, filepath.Join(s.dir(r), f.to)); err != nil {
			return err
		}
	}
	snap, err := s.imageSnapshot(ctx, img)
	if err != nil {
		return fmt.Errorf("image %s: %w", img.ref.Name, s.errs(err))
	}
	return s.cloneSnapshot(ctx, r, snap)
}

func (s *zfsStore) copyFile(ctx context.Context, from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	return s.d.write(to, 0o600, func(w io.Writer) error { return cloneFile(ctx, w.(*os.File), src, fi.Size()) })
}

// cloneSnapshot makes the machine's disk of a snapshot and grows it.
func (s *zfsStore) cloneSnapshot(ctx context.Context, r *record, snap string) error {
	if err := s.h.Clone(ctx, snap, s.disk(r), nil); err != nil {
		return s.errs(err)
	}
	s.fault("cloned the disk")
	return s.growDisk(ctx, r)
}

// growDisk gives a fresh disk the size that was asked for, and waits for its node.
func (s *zfsStore) growDisk(ctx context.Context, r *record) error {
	d, err := s.h.Get(ctx, s.disk(r), "volsize", "volblocksize")
	if err != nil {
		return err
	}
	block := int64(max(d.Number("volblocksize"), 512))
	if size := (r.Spec.Disk + block - 1) / block * block; size > int64(d.Number("volsize")) {
		if err := s.h.Set(ctx, s.disk(r), zfs.Props{"volsize": fmt.Sprint(size), "refreservation": "none"}); err != nil {
			return s.errs(err)
		}
	}
	_, err = s.h.WaitVolume(ctx, s.disk(r))
	return err
}

// retryBusy gives a volume's node the time to be let go by what looked at it.
func retryBusy(ctx context.Context, do func() error) error {
	wait := 10 * time.Millisecond
	for {
		err := do()
		if !errors.Is(err, zfs.ErrBusy) || wait > 2*time.Second {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(wait):
			wait *= 2
		}
	}
}

func (s *zfsStore) cloneDisk(ctx context.Context, r, from *record) error {
	for _, name := range []string{fileKernel, fileInitrd} {
		err := s.copyFile(ctx, filepath.Join(s.dir(from), name), filepath.Join(s.dir(r), name))
		if ignoreNotExist(err) != nil {
			return err
		}
	}
	if r.Source.Snapshot != "" {
		snap, err := s.find(ctx, from, r.Source.Snapshot)
		if err != nil {
			return err
		}
		return s.cloneSnapshot(ctx, r, snap.Name)
	}
	// The disk as it is now: a snapshot that is the clone's own, and goes with it.
	snap := s.disk(from) + "@" + snapName(r, "clone")
	err := s.h.SnapshotAndClone(ctx, snap, s.disk(r), nil)
	if errors.Is(err, zfs.ErrExists) {
		err = s.h.Clone(ctx, snap, s.disk(r), nil) // of an attempt that a crash cut
	}
	s.fault("cloned the disk as it is")
	if err == nil {
		err = s.growDisk(ctx, r)
	}
	return errors.Join(s.errs(err), s.h.DestroySnapshots(context.WithoutCancel(ctx), []string{snap}, true))
}

func (s *zfsStore) openDisk(ctx context.Context, r *record) (*os.File, error) {
	node, err := s.h.WaitVolume(ctx, s.disk(r))
	if err != nil {
		return nil, s.errs(err)
	}
	return os.OpenFile(node, os.O_RDWR, 0)
}

func (s *zfsStore) dropDisk(ctx context.Context, r *record) error {
	var errs []error
	if there, err := s.h.Exists(ctx, s.machine(r)); err != nil || !there {
		return err
	}
	errs = append(errs, s.freeClones(ctx, s.machine(r)))
	var disks []string
	for d, err := range s.h.Descend(ctx, s.machine(r), zfs.Volumes, zfs.NamesOnly) {
		if err != nil {
			return err
		}
		disks = append(disks, d.Name)
	}
	for _, d := range disks {
		err := retryBusy(ctx, func() error { return s.h.Destroy(ctx, d, zfs.DestroyOptions{Clones: true}) })
		if !errors.Is(err, zfs.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, s.dropOrphans(ctx, r.ID), s.d.remove(filepath.Join(s.dir(r), fileKernel)), s.d.remove(filepath.Join(s.dir(r), fileInitrd)))
	return errors.Join(errs...)
}

// own walks the machine's snapshots, on its disk and on disks of before a rollback.
func (s *zfsStore) own(ctx context.Context, r *record) ([]*zfs.Dataset, error) {
	var all []*zfs.Dataset
	for d, err := range s.h.Descend(ctx, s.machine(r), zfs.Snapshots, zfs.With("used", "creation", "defer_destroy")) {
		if err != nil {
			return nil, s.errs(err)
		}
		_, snap, _ := strings.Cut(d.Name, "@")
		if strings.HasSuffix(snap, "."+r.ID) && d.Value("defer_destroy") != "on" {
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b *zfs.Dataset) int { return int(int64(a.CreateTxg) - int64(b.CreateTxg)) })
	return all, nil
}

func (s *zfsStore) find(ctx context.Context, r *record, name string) (*zfs.Dataset, error) {
	all, err := s.own(ctx, r)
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if strings.HasSuffix(d.Name, "@"+snapName(r, name)) {
			return d, nil
		}
	}
	return nil, fmt.Errorf("snapshot %s: %w", name, ErrNotFound)
}

func (s *zfsStore) snapshot(ctx context.Context, r *record, name string) error {
	if _, err := s.find(ctx, r, name); !errors.Is(err, ErrNotFound) {
		if err == nil {
			err = fmt.Errorf("snapshot %s: %w", name, ErrExists)
		}
		return err
	}
	return s.errs(s.h.CreateSnapshots(ctx, []string{s.disk(r) + "@" + snapName(r, name)}, nil))
}

func (s *zfsStore) snapshots(ctx context.Context, r *record) ([]Snapshot, error) {
	all, err := s.own(ctx, r)
	if err != nil {
		return nil, err
	}
	var out []Snapshot
	for _, d := range all {
		_, snap, _ := strings.Cut(d.Name, "@")
		out = append(out, Snapshot{
			Name: strings.TrimSuffix(snap, "."+r.ID), Created: time.Unix(int64(d.Number("creation")), 0).UTC(), Used: int64(d.Number("used")),
		})
	}
	return out, nil
}

// removeSnapshot drops a snapshot; one that has clones goes with the last of them, and is not seen until then.
func (s *zfsStore) removeSnapshot(ctx context.Context, r *record, name string) error {
	d, err := s.find(ctx, r, name)
	if err != nil {
		return err
	}
	return s.errs(s.h.DestroySnapshots(ctx, []string{d.Name}, true))
}

// rollback goes back in place to the newest snapshot. To an older one it goes
// by a clone in the disk's place, so that the newer snapshots stay.
func (s *zfsStore) rollback(ctx context.Context, r *record, name string) error {
	d, err := s.find(ctx, r, name)
	if err != nil {
		return err
	}
	if strings.HasPrefix(d.Name, s.disk(r)+"@") {
		err := retryBusy(ctx, func() error { return s.h.Rollback(ctx, d.Name, false) })
		if !errors.Is(err, zfs.ErrNotNewest) {
			return s.errs(err)
		}
	}
	if err := s.h.Clone(ctx, d.Name, s.machine(r)+"/next", nil); err != nil {
		return s.errs(err)
	}
	s.fault("cloned the snapshot")
	if err := retryBusy(ctx, func() error { return s.h.Rename(ctx, s.disk(r), s.oldName(ctx, r), false) }); err != nil {
		return errors.Join(s.errs(err), s.endSwap(context.WithoutCancel(ctx), r))
	}
	s.fault("put the disk aside")
	return s.endSwap(context.WithoutCancel(ctx), r)
}

func (s *zfsStore) oldName(ctx context.Context, r *record) string {
	for i := 1; ; i++ {
		name := fmt.Sprintf("%s/old-%d", s.machine(r), i)
		if there, err := s.h.Exists(ctx, name); err != nil || !there {
			return name
		}
	}
}

// endSwap ends a rollback where it was cut: before the disk was put aside it
// did not happen, after that it did.
func (s *zfsStore) endSwap(ctx context.Context, r *record) error {
	next := s.machine(r) + "/next"
	there, err := s.h.Exists(ctx, next)
	if err != nil || !there {
		return err
	}
	whole, err := s.h.Exists(ctx, s.disk(r))
	if err != nil {
		return err
	}
	if whole {
		return retryBusy(ctx, func() error { return s.h.Destroy(ctx, next, zfs.DestroyOptions{}) })
	}
	return retryBusy(ctx, func() error { return s.h.Rename(ctx, next, s.disk(r), false) })
}
