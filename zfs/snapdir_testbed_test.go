// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The names of snapshots are the same, in the same order, whether a mounted file
// system's directory tells them or the module does; and where the directory is
// not what it seems, the module does.
func TestRealSnapshotNames(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 128*mib)
	const n = 100 // more than one read of the directory has
	for _, name := range []string{p + "/a", p + "/b"} {
		if err := h.CreateFilesystem(ctx, name, nil); err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("x", 190)
	for i := range n - 8 {
		if err := h.CreateSnapshots(ctx, []string{fmt.Sprintf("%s/a@%s%d", p, long, i)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	// Snapshots of one dataset that want the same transaction group: the kernel has each of them wait for its own.
	var last []string
	for i := range 8 {
		last = append(last, fmt.Sprintf("%s/a@%s%d", p, long, n+i))
	}
	atOnce(t, last, func(name string) error { return h.CreateSnapshots(ctx, []string{name}, nil) })
	list := func(name string, opts ...Option) []string {
		t.Helper()
		var out []string
		for d, err := range h.Snapshots(ctx, name, opts...) {
			if err != nil {
				t.Fatal(err)
			}
			if d.Kind != Snapshot {
				t.Fatalf("%s is a %v", d.Name, d.Kind)
			}
			out = append(out, d.Name)
		}
		return out
	}
	want := list(p + "/a")
	if len(want) != n {
		t.Fatalf("%d snapshots of %d", len(want), n)
	}
	inDir := func(name string) bool {
		a, done := newAhead(ctx)
		defer done()
		return (&walk{h: h, ctx: ctx, q: &query{}, ahead: a}).snapshotDir(name) != nil
	}
	check := func(when string, dir bool) {
		t.Helper()
		if got := inDir(p + "/a"); got != dir {
			t.Errorf("%s: by its directory %v", when, got)
		}
		if got := list(p+"/a", NamesOnly); !slices.Equal(got, want) {
			t.Errorf("%s: %d names, not the %d of the module", when, len(got), len(want))
		}
		if got := list(p+"/b", NamesOnly); len(got) != 0 {
			t.Errorf("%s: %v", when, got)
		}
	}
	mount := func(name, at string) {
		t.Helper()
		if err := h.Mount(ctx, name, MountOptions{At: at}); err != nil {
			t.Fatal(err)
		}
	}
	check("not mounted", false)
	at := filepath.Join(t.TempDir(), "a")
	mount(p+"/a", at)
	mount(p+"/b", at+"-b")
	check("mounted", true)
	mount(p, at)
	if err := os.MkdirAll(filepath.Join(at, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	check("below another's mount", false)
	if err := h.Unmount(ctx, p, false); err != nil {
		t.Fatal(err)
	}
	check("mounted again", true)

	// Nothing is open between two reads, so it can be unmounted while it is listed: the module goes on.
	var got []string
	for d, err := range h.Snapshots(ctx, p+"/a", NamesOnly) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, d.Name); len(got) == 1 {
			if err := h.Unmount(ctx, p+"/a", false); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("unmounted while it was listed: %d names of %d", len(got), n)
	}
	check("unmounted", false)

	// Where the place that was reached has gone too, nobody knows what to go on with.
	mount(p+"/a", at)
	told := ""
	err := func() error {
		first := true
		for d, err := range h.Snapshots(ctx, p+"/a", NamesOnly) {
			if err != nil {
				return err
			}
			told = d.Name
			if first {
				first = false
				if err := h.Unmount(ctx, p+"/a", false); err != nil {
					t.Fatal(err)
				}
				if err := h.DestroySnapshots(ctx, want[:n-1], false); err != nil {
					t.Fatal(err)
				}
			}
		}
		return nil
	}()
	if !errors.Is(err, ErrBusy) {
		t.Errorf("%s was told last: %v", told, err)
	}
	if err := h.Unmount(ctx, p+"/b", false); err != nil {
		t.Error(err)
	}
}
