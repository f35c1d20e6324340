// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// sourceTree is a tree with a bit of everything below a dataset "src", snapshots a and b of it.
func sourceTree(t testing.TB, h *Handle, p string) string {
	t.Helper()
	ctx := t.Context()
	src := p + "/src"
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	snap := func(name string, props Props) {
		_, err := h.CreateSnapshotTree(ctx, src, name, props)
		must(err)
	}
	must(h.CreateFilesystem(ctx, src, Props{"canmount": "off", "compression": "lz4", "u:top": "1"}),
		h.CreateFilesystem(ctx, src+"/a", Props{"quota": "64M", "recordsize": "64K"}),
		h.CreateFilesystem(ctx, src+"/a/deep", nil),
		h.CreateFilesystem(ctx, src+"/gone", nil),
		h.CreateVolume(ctx, src+"/vol", VolumeOptions{Size: 8 * mib, Sparse: true, Props: Props{"volmode": "none", "u:v": "v"}}))
	snap("a", Props{"u:snap": "first"})
	must(h.Clone(ctx, src+"/a@a", src+"/clone", Props{"u:clone": "yes"}), h.Set(ctx, src+"/a", Props{"atime": "off"}))
	snap("mid", nil)
	snap("b", Props{"u:snap": "second"})
	must(h.CreateFilesystem(ctx, src+"/late", nil)) // after b: not sent with it
	return src
}

// sameTree holds what two receivers made of one package against each other.
func sameTree(t *testing.T, h *Handle, a, b string) {
	t.Helper()
	const volatile = "used available referenced compressratio refcompressratio written logicalused logicalreferenced usedbydataset usedbychildren " +
		"usedbysnapshots usedbyrefreservation creation createtxg objsetid snapshots_changed mounted"
	get := func(root string) map[string]string {
		compareDatasets(t, h, root)
		m := map[string]string{}
		for d, err := range h.Descend(t.Context(), root, Filesystems, Volumes, Snapshots, With()) {
			if err != nil {
				t.Fatal(err)
			}
			for p := range d.Properties() {
				own := p.Name == "guid" && d.Kind != Snapshot // only snapshots keep theirs
				if !slices.Contains(strings.Fields(volatile), p.Name) && !own {
					m[strings.ReplaceAll(d.Name+" "+p.Name, root, "ROOT")] = strings.ReplaceAll(fmt.Sprint(p.Value, " ", p.Source, " ", p.From), root, "ROOT")
				}
			}
		}
		return m
	}
	ga, gb := get(a), get(b)
	if len(ga) < 20 {
		t.Errorf("only %d properties of %s", len(ga), a)
	}
	for _, k := range slices.Sorted(maps.Keys(ga)) {
		if ga[k] != gb[k] {
			t.Errorf("%s: %s has %q, %s %q", k, a, ga[k], b, gb[k])
		}
		delete(gb, k)
	}
	for k := range gb {
		t.Errorf("only %s has %s", b, k)
	}
}

// exchange sends a package by ours and by zfs send, whose bytes are to be the same, and receives it by zfs receive and by ours.
func exchange(t *testing.T, h *Handle, snap string, o SendTreeOptions, args []string, theirs, ours string, force bool) {
	t.Helper()
	ctx := t.Context()
	var b bytes.Buffer
	if err := h.SendTree(ctx, &b, snap, o); err != nil {
		t.Fatal(err)
	}
	want := b.Bytes()
	commands := oracle(t)
	if commands {
		var err error
		if want, err = exec.Command("zfs", append(append([]string{"send"}, args...), snap)...).Output(); err != nil {
			t.Fatal(err)
		}
	}
	// OpenZFS 2.1 says what has a key of its own before the properties, not after.
	order := regexp.MustCompile(`"is_encroot", ("props": \{[^{}]*\}), `)
	same := bytes.Equal(b.Bytes(), want) ||
		b.Len() == len(want) && packageOf(t, b.Bytes()) == order.ReplaceAllString(packageOf(t, want), `$1, "is_encroot", `)
	if !same {
		t.Errorf("%d bytes, zfs send %d\nours  %s\ntheirs %s", b.Len(), len(want), packageOf(t, b.Bytes()), packageOf(t, want))
	}
	packageOf(t, want)
	if theirs == "" {
		return
	}
	recv := []string{"receive", "-u"}
	if force {
		recv = append(recv, "-F")
	}
	if commands {
		cmd := exec.Command("zfs", append(recv, theirs)...)
		cmd.Stdin = bytes.NewReader(b.Bytes())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
	} else if _, err := h.ReceiveTree(ctx, bytes.NewReader(b.Bytes()), theirs, ReceiveTreeOptions{Force: force}); err != nil {
		t.Fatal(err)
	}
	got, err := h.ReceiveTree(ctx, bytes.NewReader(append(want, "tail"...)), ours, ReceiveTreeOptions{Force: force})
	if err != nil || got.Bytes != uint64(len(want)) {
		t.Fatalf("%+v of %d: %v", got, len(want), err)
	}
	sameTree(t, h, theirs, ours)
}

// packageOf inspects a package and gives its list and the streams in it.
func packageOf(t *testing.T, b []byte) string {
	t.Helper()
	s := ""
	for r, err := range Inspect(bytes.NewReader(b)) {
		if err != nil {
			t.Error(err)
			return s
		}
		if r.Begin != nil {
			s += "\n" + r.Begin.Name
			if r.Begin.Compound {
				s += " " + r.Begin.Payload.String()
			}
		}
	}
	return s
}

// Packages of ours and of zfs send -R are the same bytes, and each receives the other's.
func TestRealTrees(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p, q := testPool(t, h, 512*mib), testPool(t, h, 512*mib)
	src := sourceTree(t, h, p)
	var all bytes.Buffer
	t.Run("full", func(t *testing.T) {
		exchange(t, h, src+"@a", SendTreeOptions{LargeBlocks: true, Embedded: true}, []string{"-RLe"}, q+"/tool", q+"/ours", false)
		// What zfs receive made is sent by ours, and is at the other already.
		if err := h.SendTree(ctx, &all, q+"/tool@a", SendTreeOptions{}); err != nil {
			t.Fatal(err)
		}
		got, err := h.ReceiveTree(ctx, bytes.NewReader(all.Bytes()), q+"/ours", ReceiveTreeOptions{})
		if err != nil || len(got.Snapshots) != 0 || len(got.Skipped) != 5 || got.Bytes != uint64(all.Len()) {
			t.Errorf("%+v %v", got, err)
		}
	})
	t.Run("raw", func(t *testing.T) {
		exchange(t, h, src+"@b", SendTreeOptions{Raw: true}, []string{"-Rw"}, "", "", false)
	})
	t.Run("from a to b", func(t *testing.T) {
		exchange(t, h, src+"@b", SendTreeOptions{From: "@a", Compressed: true}, []string{"-Rc", "-i", "@a"}, "", "", false)
	})
	t.Run("all from a to b", func(t *testing.T) {
		exchange(t, h, src+"@b", SendTreeOptions{From: "@a", Intermediate: true}, []string{"-R", "-I", "@a"}, q+"/tool", q+"/ours", false)
	})
	if t.Failed() {
		t.FailNow()
	}
	// What the sender changed is so at the receivers' after the next package.
	for _, err := range []error{
		h.Rename(ctx, src+"/a/deep", src+"/moved", false),
		h.Rename(ctx, src+"/a@mid", src+"/a@middle", false),
		h.Destroy(ctx, src+"/gone", DestroyOptions{Recursive: true}),
		h.DestroySnapshots(ctx, []string{src + "/vol@mid"}, false),
		h.Promote(ctx, src+"/clone"),
		h.Inherit(ctx, src+"/a", "recordsize", false),
		h.CreateFilesystem(ctx, src+"/late/later", Props{"u:late": "1"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.CreateSnapshotTree(ctx, src, "c", nil); err != nil {
		t.Fatal(err)
	}
	t.Run("changed", func(t *testing.T) {
		exchange(t, h, src+"@c", SendTreeOptions{From: "@b", Intermediate: true}, []string{"-R", "-I", "@b"}, q+"/tool", q+"/ours", true)
		if d, err := h.Stat(ctx, q+"/ours/a"); err != nil || d.Origin != q+"/ours/clone@a" {
			t.Error(d, err)
		}
	})
	// Properties in place of those that come, and what does not fit.
	if _, err := h.ReceiveTree(ctx, bytes.NewReader(all.Bytes()), q+"/own", ReceiveTreeOptions{Props: Props{"compression": "zle", "u:top": "mine"}}); err != nil {
		t.Fatal(err)
	}
	if oracle(t) {
		cmd := exec.Command("zfs", "receive", "-u", "-o", "compression=zle", "-o", "u:top=mine", q+"/own2")
		cmd.Stdin = bytes.NewReader(all.Bytes())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
		sameTree(t, h, q+"/own2", q+"/own")
	}
	if _, err := h.Receive(ctx, bytes.NewReader(all.Bytes()), q+"/no", ReceiveOptions{}); !errors.Is(err, ErrStream) {
		t.Error(err)
	}
	if err := h.SendTree(ctx, &bytes.Buffer{}, src+"@a", SendTreeOptions{}); !errors.Is(err, ErrNotFound) {
		t.Error(err) // a was promoted away
	}
	for _, at := range []int{0, 100, recordSize + 50, 2000, all.Len() / 2, all.Len() - recordSize, all.Len() - 1} {
		if _, err := h.ReceiveTree(ctx, bytes.NewReader(all.Bytes()[:at]), q+"/cut", ReceiveTreeOptions{}); !errors.Is(err, ErrStream) {
			t.Errorf("cut at %d: %v", at, err)
		}
	}
	for d, err := range h.Descend(ctx, src, Snapshots, With("userrefs")) {
		if err != nil || d.Number("userrefs") != 0 {
			t.Error("still held: ", d, err)
		}
	}
}

// Raw packages bring encryption roots as they are at the sender's.
func TestRealRawTrees(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p, q := testPool(t, h, 512*mib), testPool(t, h, 512*mib)
	key, other := HexKey(strings.Repeat("0123456789abcdef", 4)), Passphrase("a passphrase")
	for _, err := range []error{
		h.CreateEncryptedFilesystem(ctx, p+"/e", key, nil),
		h.CreateFilesystem(ctx, p+"/e/child", nil),
		h.CreateEncryptedFilesystem(ctx, p+"/e/own", other, nil),
		h.CreateFilesystem(ctx, p+"/e/own/child", nil),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.CreateSnapshotTree(ctx, p+"/e", "x", nil); err != nil {
		t.Fatal(err)
	}
	if err := h.SendTree(ctx, &bytes.Buffer{}, p+"/e@x", SendTreeOptions{}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	exchange(t, h, p+"/e@x", SendTreeOptions{Raw: true}, []string{"-Rw"}, q+"/tool", q+"/ours", false)
	for _, n := range []string{"", "/child"} {
		if d, err := h.Get(ctx, q+"/ours"+n); err != nil || d.Value("encryptionroot") != q+"/ours" {
			t.Error(n, d.Value("encryptionroot"), err)
		}
	}
	if err := errors.Join(h.LoadKey(ctx, q+"/ours", key, false), h.LoadKey(ctx, q+"/ours/own", other, false)); err != nil {
		t.Error(err)
	}
}
