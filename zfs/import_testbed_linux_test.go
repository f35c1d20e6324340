// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A pool that another host has, or had when it died, is imported by force alone.
func TestRealImportForeign(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Sethostname([]byte("elsewhere")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Sethostname([]byte(name)) })
	f := files(t, 1, 64*mib)[0]
	p := testPool(t, h, 0, func(s *PoolSpec) { s.Data = []VdevSpec{Disk(f)} })
	if err := errors.Join(h.CreateFilesystem(ctx, p+"/a", nil), h.Sync(ctx, p)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f) // as it was when that host died
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.DestroyPool(ctx, p), unix.Sethostname([]byte(name))); err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(filepath.Dir(f), "dead")
	if err := os.WriteFile(dead, b, 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := h.FindPools(ctx, FindOptions{Paths: []string{dead}})
	if err != nil || len(found) != 1 || found[0].State != LabelActive || found[0].Hostname != "elsewhere" {
		t.Fatal(found, err)
	}
	none := Props{"cachefile": "none"}
	wantKind(t, "import", "elsewhere", h.Import(ctx, found[0], ImportOptions{Props: none}), ErrBusy)
	if err := h.Import(ctx, found[0], ImportOptions{Force: true, Props: none}); err != nil {
		t.Fatal(err)
	}
	if ok, err := h.Exists(ctx, p+"/a"); !ok || err != nil {
		t.Error("it lacks a dataset", err)
	}
	comparePool(t, h, p)
}

// A pool is found where nobody says on which devices it is.
func TestRealImportDevices(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	disk, _ := loop(t, files(t, 1, 64*mib)[0])
	p := testPool(t, h, 0, func(s *PoolSpec) { s.Data = []VdevSpec{Disk(disk)} })
	want := guid(t, h, p)
	if found, err := h.FindPools(ctx, FindOptions{}); err != nil || len(found) != 0 {
		t.Errorf("imported ones are offered: %v, %v", found, err)
	}
	if err := h.ExportPool(ctx, p, false); err != nil {
		t.Fatal(err)
	}
	found, err := h.FindPools(ctx, FindOptions{})
	if err != nil || len(found) != 1 || found[0].Name != p || found[0].State != LabelExported || found[0].Pool.Root.Children[0].Path != disk {
		t.Fatal(found, err)
	}
	if err := h.Import(ctx, found[0], ImportOptions{Props: Props{"cachefile": "none"}}); err != nil {
		t.Fatal(err)
	}
	if guid(t, h, p) != want {
		t.Error("another pool")
	}
	comparePool(t, h, p)
}
