// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package skep

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/skepvm/skep/zfs"
)

// TestDirStoreOnZFS: a directory store on a ZFS file system that clones blocks
// has disks, snapshots and rollbacks share theirs, also those that were written
// a moment ago and are not on disk yet. FreeBSD 14 must be told to clone by
// vfs.zfs.bclone_enabled, as a testbed's loader.conf does.
func TestDirStoreOnZFS(t *testing.T) {
	const size = 16 * MiB
	ctx := t.Context()
	pool := storePool(t, "stored")
	z, err := zfs.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { z.Close() })
	props, err := z.PoolProperties(ctx, pool)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := props["bclonesaved"]; !ok {
		t.Skip("NOT RUN: this OpenZFS clones no blocks of files (2.3 does)")
	}
	if where, err := z.Mounted(pool); err == nil && len(where) == 0 {
		if err := z.Mount(ctx, pool, zfs.MountOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	where, err := z.Mounted(pool)
	if err != nil || len(where) != 1 {
		t.Fatal(where, err)
	}
	saved := func() int64 {
		t.Helper()
		if err := z.Sync(ctx, pool); err != nil {
			t.Fatal(err)
		}
		props, err := z.PoolProperties(ctx, pool)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.ParseInt(props["bclonesaved"].Value, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	s, err := openDirStore(filepath.Join(where[0], "store"), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	t.Cleanup(func() {
		if !closed {
			s.close()
		}
	})
	shared := func(what string, copies int64) {
		t.Helper()
		if n := saved(); n != copies*size {
			t.Errorf("%s: %d bytes shared, want %d", what, n, copies*size)
		}
	}
	for _, r := range takeClones(t, s, size, shared) {
		if err := s.remove(ctx, r); err != nil {
			t.Error(err)
		}
	}
	closed = true
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

// TestDirStoreCopies: where blocks are not shared, they are copied.
func TestDirStoreCopies(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "dirstore")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	s, err := openDirStore(dir, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for _, r := range takeClones(t, s, 4*MiB, func(string, int64) {}) {
		if n, err := s.diskUsed(r); err != nil || n < 4*MiB {
			t.Errorf("%s takes %d bytes: %v", r.Spec.Name, n, err)
		}
	}
}

// takeClones makes two machines, one of an image and one of a snapshot of that
// one, which is then rolled back; each time all of the disk is the same. made is
// told how many copies there are beside the data's first.
func takeClones(t *testing.T, s *dirStore, size int64, made func(what string, copies int64)) []*record {
	t.Helper()
	ctx := t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	rnd := rand.NewChaCha8([32]byte{1})
	content := func() []byte {
		b := make([]byte, size)
		rnd.Read(b)
		return b
	}
	same := func(r *record, want []byte, what string) {
		t.Helper()
		got, err := os.ReadFile(s.disk(r))
		check(err)
		if int64(len(got)) != r.Spec.Disk || !bytes.Equal(got[:size], want) || !bytes.Equal(got[size:], make([]byte, len(got)-int(size))) {
			t.Errorf("%s: %d bytes, which are not what was cloned", what, len(got))
		}
	}
	a, b := newRecord("vma"), newRecord("vmb")
	a.Spec.Disk, b.Spec.Disk = size+MiB, size+MiB
	check(s.create(ctx, a))
	check(s.create(ctx, b))
	img := warmImage{ref: imageRef{Name: "img"}, disk: filepath.Join(s.images(), "img.raw"), size: size}
	one := content()
	check(os.WriteFile(img.disk, one, 0o600)) // not on disk when it is cloned
	check(s.cloneImage(ctx, a, img))
	made("disk", 1)
	same(a, one, "of the image")

	two := content()
	f, err := s.openDisk(ctx, a)
	check(err)
	_, err = f.WriteAt(two, 0)
	check(err)
	check(f.Close())
	check(s.snapshot(ctx, a, "s"))
	made("snapshot of a disk that was overwritten", 1)
	b.Source = &cloneSource{ID: a.ID, Snapshot: "s"}
	check(s.cloneDisk(ctx, b, a))
	made("clone of the snapshot", 2)
	same(b, two, "of the snapshot")

	f, err = s.openDisk(ctx, a)
	check(err)
	_, err = f.WriteAt([]byte("three"), 0)
	check(err)
	check(f.Close())
	check(s.rollback(ctx, a, "s"))
	made("rolled back", 2)
	same(a, two, "rolled back")
	return []*record{a, b}
}
