// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && (linux || guests)

package skep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testguest"
	"github.com/skepvm/skep/zfs"
)

// TestRealZFSHost takes machines through a Host whose store is a pool: they run
// from clones, the pool moves under another name and mount point, and they are
// there with all that they wrote.
func TestRealZFSHost(t *testing.T) {
	const name, moved = "storeh", "storehn"
	ctx := t.Context()
	pool := storePool(t, name)
	p := newPlace(t)
	cfg := realConfig(t, p)
	cfg.Store = "zfs:" + pool + "/skep"
	content := make([]byte, 8*MiB)
	testguest.Pattern(content, 3, 0)
	if err := os.WriteFile(filepath.Join(p.dir, "tiny.raw"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	z, err := zfs.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := z.Close(); err != nil {
			t.Error(err)
		}
	})
	open := func() *Host {
		t.Helper()
		h, err := Open(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Close() })
		return h
	}
	h := open()
	m := create(t, h, tinySpec("vm1"))
	g := inside(t, m)
	checkConfined(t, m.Status().WorkerPID)
	disk, err := z.Get(ctx, pool+"/skep/machines/"+m.ID()+"/disk")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(disk.Origin, pool+"/skep/images/") || !strings.HasSuffix(disk.Origin, "@base") || disk.Value("volsize") != fmt.Sprint(16*MiB) {
		t.Errorf("the disk is of %q and has %s bytes", disk.Origin, disk.Value("volsize"))
	}
	const at, length = 4 * MiB, MiB
	region := func(g *testguest.Client, want testguest.Sum, what string) {
		t.Helper()
		if got := ask(t, g, "disk-sum", "vda", fmt.Sprint(at), fmt.Sprint(length)); got != want.String() {
			t.Errorf("%s: the disk has %s, want %s", what, got, want)
		}
	}
	fill := func(seed uint64) {
		t.Helper()
		if got, want := ask(t, g, "disk-fill", "vda", fmt.Sprint(at), fmt.Sprint(length), fmt.Sprint(seed)), testguest.PatternSum(seed, at, length); got != want.String() {
			t.Errorf("written %s, want %s", got, want)
		}
	}
	region(g, testguest.PatternSum(3, at, length), "of the image")
	fill(1)
	if err := m.Snapshot(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	fill(2)
	spec := tinySpec("vm2")
	spec.Stopped = true
	c, err := m.Clone(ctx, "one", spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(ctx, StopOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	before := h.List("")
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}

	cfg.Store = "zfs:" + moved + "/skep"
	movePool(t, z, pool, moved, filepath.Join(p.dir, "elsewhere"))
	h = open()
	after := h.List("")
	told := func(all []Status) (out []string) {
		for _, s := range all {
			out = append(out, fmt.Sprint(s.ID, s.Spec.Name, s.State, s.MAC, s.Address, s.Spec.Disk))
		}
		slices.Sort(out)
		return out
	}
	if !slices.Equal(told(before), told(after)) || len(after) != 2 {
		t.Errorf("before it moved %q, after %q", told(before), told(after))
	}
	if len(after) == 2 && after[0].MAC.String() == after[1].MAC.String() {
		t.Error("the clone has the original's MAC")
	}
	if c, err = h.Get("", "vm2"); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	g = inside(t, c)
	checkConfined(t, c.Status().WorkerPID)
	region(g, testguest.PatternSum(1, at, length), "of the snapshot's clone, elsewhere")
	if m, err = h.Get("", "vm1"); err != nil {
		t.Fatal(err)
	}
	if list, err := m.Snapshots(ctx); err != nil || len(list) != 1 || list[0].Name != "one" {
		t.Errorf("snapshots %v, %v", list, err)
	}
	// The original's disk, which nobody runs from, has what was written last, and
	// after it was rolled back what the snapshot has.
	onDisk := func(seed uint64, what string) {
		t.Helper()
		f, err := h.store.openDisk(ctx, m.record())
		if err != nil {
			t.Fatal(err)
		}
		got, want := make([]byte, length), make([]byte, length)
		testguest.Pattern(want, seed, at)
		_, rerr := f.ReadAt(got, at)
		if err := errors.Join(rerr, f.Close()); err != nil || !slices.Equal(got, want) {
			t.Errorf("the original's disk has not what was written %s: %v", what, err)
		}
	}
	onDisk(2, "last")
	if err := c.Rollback(ctx, "one"); !errors.Is(err, ErrBusy) {
		t.Errorf("rolled back while it runs: %v", err)
	}
	if err := m.Rollback(ctx, "one"); err != nil {
		t.Error(err)
	}
	onDisk(1, "before the snapshot")
	if list, err := m.Snapshots(ctx); err != nil || len(list) != 1 {
		t.Errorf("rolled back: snapshots %v, %v", list, err)
	}

	for _, m := range []*Machine{m, c} { // the origin first, whose clone runs
		if err := m.Destroy(ctx); err != nil {
			t.Error(err)
		}
	}
	if n := h.List(""); len(n) != 0 {
		t.Errorf("left: %v", n)
	}
	for _, pid := range workersUnder(p.dir) {
		t.Errorf("left: worker %d", pid)
	}
	for _, tap := range taps(t, h) {
		t.Errorf("left: tap %s", tap)
	}
	if err := errors.Join(h.RemoveImage(ctx, "tiny"), h.Close()); err != nil {
		t.Fatal(err)
	}
	// The image's volume goes when the store is opened next.
	if err := open().Close(); err != nil {
		t.Fatal(err)
	}
	var left []string
	for d, err := range z.Descend(ctx, moved, zfs.Filesystems, zfs.Volumes, zfs.Snapshots, zfs.NamesOnly) {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, strings.TrimPrefix(d.Name, moved))
	}
	slices.Sort(left)
	if empty := []string{"", "/skep", "/skep/gone", "/skep/images", "/skep/machines"}; !slices.Equal(left, empty) {
		t.Errorf("left in the pool %q, want %q", left, empty)
	}
}

// movePool exports a pool and imports it under another name and alternate root.
func movePool(t *testing.T, z *zfs.Handle, pool, to, root string) {
	t.Helper()
	ctx := t.Context()
	st, err := z.Pool(ctx, pool)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(st.Root.Children[0].Path)
	for range 50 { // volumes are let go a little later
		if err = z.ExportPool(ctx, pool, false); !errors.Is(err, zfs.ErrBusy) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	found, ferr := z.FindPools(ctx, zfs.FindOptions{Paths: []string{dir}})
	if err := errors.Join(err, ferr); err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if err := z.Import(ctx, found[0], zfs.ImportOptions{Name: to, Props: zfs.Props{"cachefile": "none", "altroot": root}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		for range 50 {
			if err = z.DestroyPool(ctx, to); !errors.Is(err, zfs.ErrBusy) {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil {
			t.Error(err)
		}
	})
}
