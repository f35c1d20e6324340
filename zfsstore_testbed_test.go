// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package skep

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skepvm/skep/zfs"
)

// storePool makes a pool in a file and gives its name; it is destroyed after the test.
func storePool(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "zfsstore")
	if err != nil {
		t.Fatal(err)
	}
	f := filepath.Join(dir, "vdev")
	if err := errors.Join(os.WriteFile(f, nil, 0o600), os.Truncate(f, 1<<30)); err != nil {
		t.Fatal(err)
	}
	h, err := zfs.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.CreatePool(t.Context(), zfs.PoolSpec{Name: name, Data: []zfs.VdevSpec{zfs.Disk(f)}, Props: zfs.Props{"cachefile": "none"},
		RootProps: zfs.Props{"mountpoint": dir + "/mnt"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		err := h.DestroyPool(ctx, name)
		for i := 0; errors.Is(err, zfs.ErrBusy) && i < 50; i++ {
			time.Sleep(100 * time.Millisecond)
			err = h.DestroyPool(ctx, name)
		}
		if errors.Is(err, zfs.ErrNotFound) { // it has moved: whoever moved it destroyed it
			err = nil
		}
		if err := errors.Join(err, h.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return name
}

// step is what a store is taken through; each leaves what the next begins with.
type storeBed struct {
	t       *testing.T
	s       *zfsStore
	img     warmImage
	a, b, c *record
}

func newRecord(name string) *record {
	return &record{Version: recordVersion, ID: newID(), State: StateStopped, Created: time.Now().UTC().Truncate(time.Second),
		Spec: MachineSpec{Name: name, Namespace: LocalNamespace, Image: "img", CPUs: 1, Memory: GiB, Disk: 40 * MiB, UserData: bytes.Repeat([]byte(name), 5000)}}
}

func (b *storeBed) write(r *record, off int64, s string) error {
	f, err := b.s.openDisk(b.t.Context(), r)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(append([]byte(s), make([]byte, 4096-len(s))...), off)
	return errors.Join(err, f.Sync(), f.Close())
}

func (b *storeBed) read(r *record, off int64) string {
	b.t.Helper()
	f, err := b.s.openDisk(b.t.Context(), r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 4096)
	if _, err := f.ReadAt(buf, off); err != nil && err != io.EOF {
		b.t.Fatal(err)
	}
	return strings.TrimRight(string(buf), "\x00")
}

var storeSteps = []struct {
	name string
	do   func(ctx context.Context, b *storeBed) error
}{
	{"create a", func(ctx context.Context, b *storeBed) error { return b.s.create(ctx, b.a) }},
	{"disk of a", func(ctx context.Context, b *storeBed) error { return b.s.cloneImage(ctx, b.a, b.img) }},
	{"save", func(ctx context.Context, b *storeBed) error {
		r := *b.a
		r.Reason = "saved"
		b.a = &r
		return b.s.save(ctx, b.a)
	}},
	{"write 1", func(ctx context.Context, b *storeBed) error { return b.write(b.a, 8<<20, "one") }},
	{"snapshot 1", func(ctx context.Context, b *storeBed) error { return b.s.snapshot(ctx, b.a, "s1") }},
	{"write 2", func(ctx context.Context, b *storeBed) error { return b.write(b.a, 8<<20, "two") }},
	{"snapshot 2", func(ctx context.Context, b *storeBed) error { return b.s.snapshot(ctx, b.a, "s2") }},
	{"create b", func(ctx context.Context, b *storeBed) error { return b.s.create(ctx, b.b) }},
	{"clone b of a snapshot", func(ctx context.Context, b *storeBed) error {
		b.b.Source = &cloneSource{ID: b.a.ID, Snapshot: "s1"}
		return b.s.cloneDisk(ctx, b.b, b.a)
	}},
	{"create c", func(ctx context.Context, b *storeBed) error { return b.s.create(ctx, b.c) }},
	{"clone c of the disk", func(ctx context.Context, b *storeBed) error {
		b.c.Source = &cloneSource{ID: b.a.ID}
		return b.s.cloneDisk(ctx, b.c, b.a)
	}},
	{"roll back to the older", func(ctx context.Context, b *storeBed) error { return b.s.rollback(ctx, b.a, "s1") }},
}

func newStoreBed(t *testing.T, pool string, fault func(string)) *storeBed {
	t.Helper()
	s, err := openZFSStore(t.Context(), pool+"/skep", fault)
	if err != nil {
		t.Fatal(err)
	}
	b := &storeBed{t: t, s: s, a: newRecord("vma"), b: newRecord("vmb"), c: newRecord("vmc")}
	b.img = warmImage{ref: imageRef{Name: "img"}, disk: filepath.Join(s.images(), "disk.raw"), kernel: filepath.Join(s.images(), "kernel")}
	raw := make([]byte, 16*MiB+512)
	copy(raw[MiB:], "the image")
	copy(raw[len(raw)-10:], "the end")
	if err := errors.Join(os.WriteFile(b.img.disk, raw, 0o600), os.WriteFile(b.img.kernel, []byte("k"), 0o600),
		os.Chtimes(b.img.disk, time.Unix(1, 0), time.Unix(1, 0))); err != nil {
		t.Fatal(err)
	}
	return b
}

func names(t *testing.T, s *zfsStore, r *record) []string {
	t.Helper()
	list, err := s.snapshots(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, n := range list {
		out = append(out, n.Name)
	}
	return out
}

func TestZFSStore(t *testing.T) {
	pool := storePool(t, "storea")
	ctx := t.Context()
	b := newStoreBed(t, pool, func(string) {})
	if _, err := openZFSStore(ctx, pool+"/skep", func(string) {}); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	for _, st := range storeSteps {
		if err := st.do(ctx, b); err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
	}
	if got := b.read(b.a, 8<<20) + b.read(b.b, 8<<20) + b.read(b.c, 8<<20); got != "oneonetwo" {
		t.Error(got)
	}
	if b.read(b.c, MiB) != "the image" || b.read(b.a, 16*MiB) == "" {
		t.Error("the image is not on the disks")
	}
	if got := names(t, b.s, b.a); !slices.Equal(got, []string{"s1", "s2"}) {
		t.Error(got)
	}
	if err := b.s.snapshot(ctx, b.a, "s2"); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	if err := b.s.rollback(ctx, b.a, "s2"); err != nil || b.read(b.a, 8<<20) != "two" {
		t.Error(err, b.read(b.a, 8<<20))
	}
	if n, err := b.s.diskUsed(b.a); err != nil || n <= 0 {
		t.Error(n, err)
	}
	if n, err := b.s.free(); err != nil || n <= 0 || n > 1<<30 {
		t.Error(n, err)
	}
	if err := os.WriteFile(filepath.Join(b.s.dir(b.b), fileSeed), []byte("seed"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The origin goes, its clones stay, and nothing of it is left with them.
	if err := b.s.remove(ctx, b.a); err != nil {
		t.Fatal(err)
	}
	if err := b.s.remove(ctx, b.a); err != nil {
		t.Error("removed twice:", err)
	}
	if got := b.read(b.b, 8<<20) + b.read(b.c, 8<<20); got != "onetwo" {
		t.Error(got)
	}
	if got := append(names(t, b.s, b.b), names(t, b.s, b.c)...); len(got) != 0 {
		t.Error("clones have the origin's snapshots:", got)
	}
	if err := b.s.close(); err != nil {
		t.Fatal(err)
	}

	// The pool moves, and the machines with it.
	h, err := zfs.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Set(ctx, pool+"/skep", zfs.Props{propHost: "elsewhere"}); err != nil {
		t.Fatal(err)
	}
	p, err := h.Pool(ctx, pool)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(p.Root.Children[0].Path)
	var eerr error
	for range 50 {
		if eerr = h.ExportPool(ctx, pool, false); !errors.Is(eerr, zfs.ErrBusy) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	found, err := h.FindPools(ctx, zfs.FindOptions{Paths: []string{dir}})
	if err != nil || eerr != nil || len(found) != 1 {
		t.Fatal(found, err, eerr)
	}
	if err := h.Import(ctx, found[0], zfs.ImportOptions{Props: zfs.Props{"cachefile": "none"}}); err != nil {
		t.Fatal(err)
	}
	if b.s, err = openZFSStore(ctx, pool+"/skep", func(string) {}); err != nil {
		t.Fatal(err)
	}
	defer func() { b.s.close() }()
	all, err := b.s.load(ctx)
	if err != nil || len(all) != 2 {
		t.Fatal(len(all), err)
	}
	for _, r := range all {
		want := map[string]*record{b.b.ID: b.b, b.c.ID: b.c}[r.ID]
		if want == nil || r.Spec.Name != want.Spec.Name || !bytes.Equal(r.Spec.UserData, want.Spec.UserData) {
			t.Errorf("%+v", r.Spec.Name)
		}
	}
	if s, err := os.ReadFile(filepath.Join(b.s.dir(b.b), fileSeed)); err != nil || string(s) != "seed" {
		t.Error(string(s), err)
	}
	if got := b.read(b.b, 8<<20); got != "one" {
		t.Error(got)
	}

	// What it says of the format and the host is as it should be, and a store of
	// a newer release is not touched.
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	says := func(format string) {
		t.Helper()
		d, err := h.Get(ctx, pool+"/skep", propFormat, propHost)
		if err != nil || d.Value(propFormat) != format || d.Value(propHost) != host {
			t.Errorf("format %q, host %q: %v", d.Value(propFormat), d.Value(propHost), err)
		}
	}
	says("1")
	if err := errors.Join(b.s.close(), h.Set(ctx, pool+"/skep", zfs.Props{propFormat: "2"})); err != nil {
		t.Fatal(err)
	}
	if s, err := openZFSStore(ctx, pool+"/skep", func(string) {}); err == nil || !strings.Contains(err.Error(), "format 2") || !strings.Contains(err.Error(), host) {
		t.Errorf("a store of a newer release: %v", err)
		if err == nil {
			s.close()
		}
	}
	says("2")
	// One that has none is of before.
	if err := h.Inherit(ctx, pool+"/skep", propFormat, false); err != nil {
		t.Fatal(err)
	}
	if b.s, err = openZFSStore(ctx, pool+"/skep", func(string) {}); err != nil {
		t.Fatal(err)
	}
	says("1")
}

type crash struct{ at string }

// A store is cut at every point between two lasting changes; the next daemon
// finds each machine whole or can remove it, and removes all in the end.
func TestZFSStoreCrash(t *testing.T) {
	pool := storePool(t, "storeb")
	ctx := t.Context()
	for cut := 1; ; cut++ {
		n := 0
		b := newStoreBed(t, pool, func(string) {})
		b.s.fault = func(at string) {
			if n++; n == cut {
				panic(crash{at})
			}
		}
		b.s.d.fault = b.s.fault
		at := func() (at string) {
			defer func() {
				if c, ok := recover().(crash); ok {
					at = c.at
				}
			}()
			for _, st := range storeSteps {
				if err := st.do(ctx, b); err != nil {
					t.Fatalf("%s: %v", st.name, err)
				}
			}
			if err := b.s.remove(ctx, b.a); err != nil {
				t.Fatal(err)
			}
			// The image is refreshed, and removed before a machine is made of it.
			if err := os.Chtimes(b.img.disk, time.Unix(2, 0), time.Unix(2, 0)); err != nil {
				t.Fatal(err)
			}
			if _, err := b.s.imageSnapshot(ctx, b.img); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Remove(b.img.disk), b.s.sweepImages(ctx)); err != nil {
				t.Fatal(err)
			}
			return ""
		}()
		_ = b.s.close()
		s, err := openZFSStore(ctx, pool+"/skep", func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		all, err := s.load(ctx)
		if err != nil {
			t.Fatalf("after %q: %v", at, err)
		}
		b.s = s
		for _, r := range all {
			if r.ID == b.a.ID && strings.HasPrefix(at, "put the disk") && b.read(r, 8<<20) != "one" {
				t.Errorf("after %q the rollback is neither done nor undone", at)
			}
			if err := errors.Join(s.dropDisk(ctx, r), s.remove(ctx, r)); err != nil {
				t.Errorf("after %q: %v", at, err)
			}
		}
		if err := ignoreNotExist(os.Remove(b.img.disk)); err != nil {
			t.Fatal(err)
		}
		if err := s.sweepImages(ctx); err != nil {
			t.Errorf("after %q: %v", at, err)
		}
		var left []string
		for d, err := range s.h.Descend(ctx, pool+"/skep", zfs.Filesystems, zfs.Volumes, zfs.Snapshots, zfs.NamesOnly) {
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(d.Name, "/gone/") { // which the cut call's open files may hold
				left = append(left, d.Name)
			}
		}
		if len(left) != 4 { // ROOT, images, machines, gone
			t.Errorf("after %q: left %q", at, left)
		}
		_ = s.close()
		if at == "" {
			t.Logf("%d points", cut-1)
			return
		}
	}
}
