// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skepvm/skep/zfs/internal/zcmd"
)

// inOrder is what a listing of the model has to say, by the rule of Descend.
func (k *kernel) inOrder(name string, snaps bool) []string {
	var out []string
	if !snaps {
		out = append(out, name)
	}
	if snaps {
		out = append(out, k.below(name, "@")...)
	}
	for _, c := range k.below(name, "/") {
		out = append(out, k.inOrder(c, snaps)...)
	}
	return out
}

// However many walks are ahead, what is told comes in the order of one.
func TestAheadKeepsOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		names := []string{"tank"}
		for i := range rapid.IntRange(0, 60).Draw(rt, "datasets") {
			parent := rapid.SampledFrom(names).Draw(rt, "parent")
			names = append(names, fmt.Sprintf("%s/d%d", parent, i))
		}
		clones := map[string]string{} // what has no snapshots of its own has its origin as the last one
		for i, n := range slices.Clone(names) {
			if rapid.Bool().Draw(rt, "clone") {
				clones[n] = n + "<tank/other@origin"
			}
			for s := range rapid.IntRange(0, 3).Draw(rt, "snapshots") {
				names = append(names, fmt.Sprintf("%s@s%d-%d", n, i, s))
			}
		}
		for i, n := range names {
			names[i] = cmp.Or(clones[n], n)
		}
		k, h := newKernel(t, names...)
		for _, opts := range [][]Option{{NamesOnly}, {Snapshots, With("used")}, {Snapshots, NamesOnly}, {Snapshots, With()}, {Snapshots}} {
			snaps := newQuery(opts).kinds == Snapshot
			var got []string
			for d, err := range h.Descend(t.Context(), "tank", opts...) {
				if err != nil {
					rt.Fatal(err)
				}
				got = append(got, d.Name)
			}
			if want := k.inOrder("tank", snaps); !slices.Equal(got, want) {
				rt.Fatalf("%+v:\ngot  %v\nwant %v", newQuery(opts), got, want)
			}
		}
	})
}

// Datasets whose siblings have no snapshots are asked for their last one along
// with their names, and not for all if they have none.
func TestBareDatasetsAreNotAsked(t *testing.T) {
	k, h := wide(t)
	want := []string{"tank/p3@s", "tank/p3/d7@s", "tank/p19/d19@s"}
	for _, n := range want {
		k.add(n, objsetFilesystem, "")
	}
	for _, tc := range []struct {
		opts []Option
		most int // requests for snapshots; with names alone it is up to who is ahead of whom
	}{
		{[]Option{Snapshots, NamesOnly}, 100},
		{[]Option{Snapshots, With("used")}, 1 + 2*len(want)},
	} {
		k.calls = nil
		var got []string
		for d, err := range h.Descend(t.Context(), "tank", tc.opts...) {
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, d.Name); d.Value(prevSnap) != "" || d.props != nil != newQuery(tc.opts).wantProps() {
				t.Errorf("%s has properties that nobody asked for: %v", d.Name, d.props)
			}
		}
		asked := 0
		for _, op := range k.calls {
			if op == zcmd.SnapshotList {
				asked++
			}
		}
		if !slices.Equal(got, want) || asked > tc.most {
			t.Errorf("%v, %d requests for snapshots of 421 datasets, %d at most", got, asked, tc.most)
		}
	}
}

// wide is a model with 20 parents of 20 children each.
func wide(t *testing.T) (*kernel, *Handle) {
	names := []string{"tank"}
	for i := range 20 {
		names = append(names, fmt.Sprintf("tank/p%d", i))
		for j := range 20 {
			names = append(names, fmt.Sprintf("tank/p%d/d%d", i, j))
		}
	}
	return newKernel(t, names...)
}

// Requests for different datasets are on their way at the same time: the first
// of four children are each answered once all four have been asked for.
func TestAheadIsSideBySide(t *testing.T) {
	k, _ := wide(t)
	var mu sync.Mutex
	asked := map[string]bool{}
	all := make(chan struct{})
	h := newHandle(zcmd.Fake(func(op zcmd.Op, c *zcmd.Cmd, src, conf, dst []byte) syscall.Errno {
		name := zcmd.String(c.Name[:])
		if op == zcmd.DatasetListNext && len(name) == len("tank/p0") && name < "tank/p4" {
			mu.Lock()
			if !asked[name] {
				if asked[name] = true; len(asked) == 4 {
					close(all)
				}
			}
			mu.Unlock()
			select {
			case <-all:
			case <-time.After(10 * time.Second):
				return syscall.EDEADLK
			}
		}
		return k.serve(op, c, src, conf, dst)
	}), func() (string, error) { return "2.3.2-1", nil })
	for _, err := range h.Descend(t.Context(), "tank", NamesOnly) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The error of one dataset comes when its turn does, after all that is before it, and ends the walk.
func TestAheadError(t *testing.T) {
	k, h := wide(t)
	k.hook = func(op zcmd.Op, name string) syscall.Errno {
		if op == zcmd.DatasetListNext && name == "tank/p7/d3" {
			return syscall.EIO
		}
		return 0
	}
	var got []string
	var last error
	for d, err := range h.Descend(t.Context(), "tank", NamesOnly) {
		if last != nil {
			t.Fatal("something after the error")
		}
		if last = err; err == nil {
			got = append(got, d.Name)
		}
	}
	if !errors.Is(last, syscall.EIO) || !strings.Contains(last.Error(), "tank/p7/d3") {
		t.Errorf("the error is %v", last)
	}
	if want := 1 + 7*21 + 1 + 4; len(got) != want || got[want-1] != "tank/p7/d3" {
		t.Errorf("%d before it, the last %s; want %d", len(got), got[len(got)-1], want)
	}
}

// What is destroyed while a walk goes on is passed over.
func TestAheadVanished(t *testing.T) {
	k, h := wide(t)
	k.hook = func(op zcmd.Op, name string) syscall.Errno {
		if strings.HasSuffix(name, "/d3") {
			return syscall.ENOENT
		}
		return 0
	}
	count := 0
	for _, err := range h.Descend(t.Context(), "tank", NamesOnly) {
		if err != nil {
			t.Fatal(err)
		}
		count++
	}
	if count != 1+20*21 {
		t.Errorf("%d datasets", count)
	}
}

// A walk that is left, or cancelled, at any point ends: the walks ahead of it too (TestMain looks for them).
func TestAheadEnds(t *testing.T) {
	_, h := wide(t)
	for stop := range 60 {
		seen := 0
		for _, err := range h.Descend(t.Context(), "tank", NamesOnly) {
			if err != nil {
				t.Fatal(err)
			}
			if seen++; seen > stop {
				break
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var last error
		seen = 0
		for _, err := range h.Descend(ctx, "tank", NamesOnly) {
			if last = err; err == nil {
				seen++
			}
			if seen == stop {
				cancel()
			}
		}
		cancel()
		if stop > 0 && !errors.Is(last, context.Canceled) {
			t.Fatalf("cancelled after %d: %d seen, then %v", stop, seen, last)
		}
	}
}

// What is kept of a dataset does not keep the rest of the kernel's answer.
func TestKeptAlone(t *testing.T) {
	h := newHandle(zcmd.Fake(hugePool(1000, 10)), func() (string, error) { return "2.3.2-1", nil })
	var all []*Dataset
	before := heap()
	for d, err := range h.Descend(t.Context(), "tank", Snapshots, With("used", "creation")) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	if each := (heap() - before) / uint64(len(all)); each > 2000 {
		t.Errorf("%d bytes for each dataset with two properties", each)
	}
	runtime.KeepAlive(all)
}
