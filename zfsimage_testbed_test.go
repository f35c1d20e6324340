// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package skep

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skepvm/skep/zfs"
)

// imageZvols gives the names of the images' volumes, each with its @base.
func imageZvols(t *testing.T, s *zfsStore) []string {
	t.Helper()
	var out []string
	for d, err := range s.h.Descend(t.Context(), s.imageZvols(), zfs.Volumes, zfs.NamesOnly) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, d.Name)
		if there, err := s.h.Exists(t.Context(), d.Name+"@base"); err != nil || !there {
			t.Errorf("%s has no snapshot: %v", d.Name, err)
		}
	}
	slices.Sort(out)
	return out
}

// TestZFSStoreImages: an image is brought in once, wherever the pool is; what
// was replaced, cut or held goes as soon as it may.
func TestZFSStoreImages(t *testing.T) {
	pool := storePool(t, "storei")
	ctx := t.Context()
	b := newStoreBed(t, pool, func(string) {})
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	have := func(what string, want ...string) {
		t.Helper()
		slices.Sort(want)
		if got := imageZvols(t, b.s); !slices.Equal(got, want) {
			t.Errorf("%s: volumes %q, want %q", what, got, want)
		}
	}
	image := func() string {
		t.Helper()
		snap, err := b.s.imageSnapshot(ctx, b.img)
		check(err)
		return strings.TrimSuffix(snap, "@base")
	}
	stamp := func(sec int64) { t.Helper(); check(os.Chtimes(b.img.disk, time.Unix(sec, 0), time.Unix(sec, 0))) }
	check(b.s.create(ctx, b.a))
	check(b.s.cloneImage(ctx, b.a, b.img))
	first := image()
	have("made", first)

	// The pool is mounted elsewhere.
	check(b.s.close())
	h, err := zfs.Open()
	check(err)
	defer h.Close()
	was := b.s.at
	check(h.Unmount(ctx, b.s.machine(b.a), false))
	check(h.Unmount(ctx, pool+"/skep", false))
	there, err := os.MkdirTemp("/var/tmp", "zfsstore")
	check(err)
	defer os.RemoveAll(there)
	check(h.Set(ctx, pool+"/skep", zfs.Props{"mountpoint": filepath.Join(there, "skep")}))
	b.s, err = openZFSStore(ctx, pool+"/skep", func(string) {})
	check(err)
	defer func() { b.s.close() }()
	if b.s.at == was {
		t.Fatal("it is mounted where it was")
	}
	_, err = b.s.load(ctx)
	check(err)
	b.img.disk, b.img.kernel = filepath.Join(b.s.images(), "disk.raw"), filepath.Join(b.s.images(), "kernel")
	if got := image(); got != first {
		t.Errorf("elsewhere the image is %s, was %s", got, first)
	}
	have("moved", first)

	// An earlier release named it by its path of then.
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", was+"/images/disk.raw", 16*MiB+512, time.Unix(1, 0).UnixNano()))
	old := fmt.Sprintf("%s/%x", b.s.imageZvols(), sum[:16])
	check(h.Rename(ctx, first, old, false))
	check(h.Set(ctx, old, zfs.Props{propSource: was + "/images/disk.raw"}))
	check(b.s.sweepImages(ctx))
	have("of an earlier release", first)
	check(b.s.sweepImages(ctx))
	have("renamed", first)

	// It is refreshed: the old one stays as long as a machine is of it, one of
	// which there is none goes. A snapshot of somebody else's is no hindrance.
	stamp(2)
	second := image()
	have("refreshed", first, second)
	check(h.CreateSnapshots(ctx, []string{second + "@daily"}, nil))
	stamp(3)
	third := image()
	have("refreshed again", first, second, third)
	check(b.s.sweepImages(ctx))
	have("swept", first, third)
	check(b.s.remove(ctx, b.a))
	check(b.s.sweepImages(ctx))
	have("swept after the last clone went", third)

	// A volume without its snapshot was not whole, or is not any more.
	check(h.DestroySnapshots(ctx, []string{third + "@base"}, false))
	if got := image(); got != third {
		t.Errorf("made again it is %s, was %s", got, third)
	}
	have("made again", third)
	check(h.DestroySnapshots(ctx, []string{third + "@base"}, false))
	check(h.CreateVolume(ctx, third+".new", zfs.VolumeOptions{Size: 1 << 20, Sparse: true}))
	_, err = b.s.load(ctx)
	check(err)
	have("leftovers")

	// What is held goes at a later sweep, and is no reason not to open the store.
	fourth := image()
	check(os.Remove(b.img.disk))
	check(h.Hold(ctx, "test", []string{fourth + "@base"}, false))
	_, err = b.s.load(ctx)
	check(err)
	have("held", fourth)
	check(h.Release(ctx, "test", []string{fourth + "@base"}))
	_, err = b.s.load(ctx)
	check(err)
	have("let go")
}

// TestZFSStoreImagesAtOnce: while an image is brought in, machines are made of
// another, and who waits for it can stop to.
func TestZFSStoreImagesAtOnce(t *testing.T) {
	pool := storePool(t, "storej")
	ctx := t.Context()
	b := newStoreBed(t, pool, func(string) {})
	defer b.s.close()
	ready, err := b.s.imageSnapshot(ctx, b.img)
	if err != nil {
		t.Fatal(err)
	}
	slow := b.img
	slow.disk = filepath.Join(b.s.images(), "slow.raw")
	if err := errors.Join(os.WriteFile(slow.disk, []byte("slow"), 0o600), os.Truncate(slow.disk, MiB)); err != nil {
		t.Fatal(err)
	}
	filling, goOn := make(chan struct{}), make(chan struct{})
	b.s.fault = func(at string) {
		if at == "created the image's volume" {
			close(filling) // a second filler would panic
			<-goOn
		}
	}
	type answer struct {
		snap string
		err  error
	}
	ask := func(ctx context.Context) chan answer {
		c := make(chan answer, 1)
		go func() {
			snap, err := b.s.imageSnapshot(ctx, slow)
			c <- answer{snap, err}
		}()
		return c
	}
	one := ask(ctx)
	<-filling
	if got, err := b.s.imageSnapshot(ctx, b.img); err != nil || got != ready {
		t.Error(got, err)
	}
	cctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	two, three := ask(ctx), ask(cctx)
	if a := <-three; !errors.Is(a.err, context.DeadlineExceeded) {
		t.Errorf("who gave up waiting: %q, %v", a.snap, a.err)
	}
	close(goOn)
	a1, a2 := <-one, <-two
	if a1.err != nil || a2.err != nil || a1.snap != a2.snap || a1.snap == ready {
		t.Errorf("%+v, %+v", a1, a2)
	}
	if got := imageZvols(t, b.s); len(got) != 2 {
		t.Errorf("volumes %q", got)
	}
}
