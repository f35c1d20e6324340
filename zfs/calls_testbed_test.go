// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// snapshotsOf gives the snapshots in a tree, without its name.
func snapshotsOf(t *testing.T, h *Handle, root string) []string {
	t.Helper()
	var out []string
	for d, err := range h.Descend(t.Context(), root, Snapshots, NamesOnly) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.TrimPrefix(d.Name, root))
	}
	slices.Sort(out)
	return out
}

func TestRealRecursiveRename(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 64*mib)
	if err := errors.Join(h.CreateFilesystem(ctx, p+"/a", nil), h.CreateFilesystem(ctx, p+"/a/b", nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.CreateSnapshotTree(ctx, p, "x", nil); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateSnapshots(ctx, []string{p + "/a/b@y"}, nil); err != nil {
		t.Fatal(err)
	}
	before := guid(t, h, p+"/a/b@x")
	wantKind(t, "one of them has it", p, h.Rename(ctx, p+"@x", p+"@y", true), ErrExists)
	if got, want := snapshotsOf(t, h, p), []string{"/a/b@x", "/a/b@y", "/a@x", "@x"}; !slices.Equal(got, want) {
		t.Errorf("half of it happened: %q", got)
	}
	if err := h.Rename(ctx, p+"@x", p+"@z", true); err != nil {
		t.Fatal(err)
	}
	if got, want := snapshotsOf(t, h, p), []string{"/a/b@y", "/a/b@z", "/a@z", "@z"}; !slices.Equal(got, want) || guid(t, h, p+"/a/b@z") != before {
		t.Errorf("%q, want %q", got, want)
	}
	if err := h.Rename(ctx, p+"/a@z", p+"/a@w", false); err != nil {
		t.Fatal(err)
	}
	if got, want := snapshotsOf(t, h, p), []string{"/a/b@y", "/a/b@z", "/a@w", "@z"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	compareDatasets(t, h, p)
}

func TestRealDestroyBookmarks(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 64*mib)
	if err := errors.Join(h.CreateSnapshots(ctx, []string{p + "@s"}, nil),
		h.CreateBookmarks(ctx, map[string]string{p + "#a": p + "@s", p + "#b": p + "@s", p + "#c": p + "@s"})); err != nil {
		t.Fatal(err)
	}
	if err := h.DestroyBookmarks(ctx, []string{p + "#a", p + "#none", p + "#c"}); err != nil {
		t.Error(err)
	}
	if left, err := h.Bookmarks(ctx, p); err != nil || len(left) != 1 || left[0].Name != p+"#b" {
		t.Error(left, err)
	}
	compareDatasets(t, h, p)
	if err := h.DestroyBookmarks(ctx, []string{p + "/none#a"}); err != nil { // nor is the dataset there
		t.Error(err)
	}
}

// A value that came with a stream stands below one that was set here, and comes back.
func TestRealInheritReceived(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 64*mib)
	if err := errors.Join(h.CreateFilesystem(ctx, p+"/from", Props{"compression": "zle", "u:x": "sent", "mountpoint": "none"}),
		h.CreateSnapshots(ctx, []string{p + "/from@s"}, nil)); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := h.SendTree(ctx, &b, p+"/from@s", SendTreeOptions{}); err != nil {
		t.Fatal(err)
	}
	if all, err := h.ReceivedProperties(ctx, p+"/from"); err != nil || len(all) != 0 {
		t.Error("received", all, err)
	}
	to := p + "/to"
	if _, err := h.ReceiveTree(ctx, &b, to, ReceiveTreeOptions{}); err != nil {
		t.Fatal(err)
	}
	want := func(what, prop, value string, source Source) {
		t.Helper()
		d, err := h.Get(ctx, to)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := d.Property(prop); got.Value != value || got.Source != source {
			t.Errorf("%s: %s is %q (%s), want %q (%s)", what, prop, got.Value, got.Source, value, source)
		}
	}
	for prop, value := range map[string][2]string{"compression": {"zle", "gzip"}, "u:x": {"sent", "mine"}} {
		want("received", prop, value[0], SourceReceived)
		if err := h.Set(ctx, to, Props{prop: value[1]}); err != nil {
			t.Fatal(err)
		}
		want("set", prop, value[1], SourceLocal)
		compareReceived(t, h, to, prop, value[0])
		if err := h.Inherit(ctx, to, prop, true); err != nil {
			t.Fatal(err)
		}
		want("inherited as received", prop, value[0], SourceReceived)
	}
	compareDatasets(t, h, to)
	if err := errors.Join(h.Inherit(ctx, to, "compression", false), h.Inherit(ctx, to, "u:x", false)); err != nil {
		t.Fatal(err)
	}
	if d, err := h.Get(ctx, to); err != nil || d.Value("u:x") != "" || d.Value("compression") == "zle" {
		t.Error("what was received still stands", d.Value("u:x"), d.Value("compression"), err)
	}
	compareDatasets(t, h, to)
}

// compareReceived looks for a value below the one that was set here, and holds all of them against zfs get.
func compareReceived(t *testing.T, h *Handle, name, prop, value string) {
	t.Helper()
	all, err := h.ReceivedProperties(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range all {
		got = append(got, p.Name+" "+p.Value)
	}
	if !slices.Contains(got, prop+" "+value) {
		t.Errorf("received are %q, without %s %s", got, prop, value)
	}
	if !oracle(t) {
		return
	}
	var want []string
	for _, l := range lines(tool(t, "zfs", "get", "-Hp", "-o", "property,received", "all", name)) {
		if f := strings.Split(l, "\t"); len(f) == 2 && f[1] != "-" {
			want = append(want, f[0]+" "+f[1])
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("received:\nours %q\nzfs  %q", got, want)
	}
}

func TestRealMounts(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 64*mib)
	at := "/var/tmp/mnt-" + p + "-at"
	t.Cleanup(func() { _ = os.Remove(at) })
	if err := errors.Join(h.CreateFilesystem(ctx, p+"/none", Props{"mountpoint": "none"}), h.Mount(ctx, p+"/none", MountOptions{At: at})); err != nil {
		t.Fatal(err)
	}
	if where, err := h.Mounted(p + "/none"); err != nil || !slices.Equal(where, []string{at}) {
		t.Error(where, err)
	}
	compareDatasets(t, h, p)
	f, err := os.Create(filepath.Join(at, "open"))
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, "unmount while it is used", p+"/none", h.Unmount(ctx, p+"/none", false), ErrBusy)
	if err := h.Unmount(ctx, p+"/none", true); err != nil {
		t.Error(err)
	}
	if where, err := h.Mounted(p + "/none"); err != nil || len(where) != 0 {
		t.Error(where, err)
	}
	if _, err := os.Stat(filepath.Join(at, "open")); !errors.Is(err, os.ErrNotExist) {
		t.Error("still there", err)
	}
	_ = f.Close()
	if err := h.Unmount(ctx, p+"/none", false); err != nil {
		t.Error("not mounted:", err)
	}
	if err := h.Mount(ctx, p+"/none", MountOptions{At: at, ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(at, "open")); err != nil {
		t.Error("what was written before it was unmounted by force:", err)
	}
	if err := os.WriteFile(filepath.Join(at, "open"), nil, 0); err == nil {
		t.Error("written to a read-only mount")
	}
	if err := h.Unmount(ctx, p+"/none", false); err != nil {
		t.Error(err)
	}
}

// Keys of volumes, and of datasets that had one of their own.
func TestRealOwnKeys(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 128*mib)
	key, own := RawKey(randomBytes(32)), HexKey(strings.Repeat("0123456789abcdef", 4))
	if err := errors.Join(
		h.CreateEncryptedFilesystem(ctx, p+"/e", key, Props{"mountpoint": "none"}),
		h.CreateEncryptedFilesystem(ctx, p+"/e/own", own, nil),
		h.CreateVolume(ctx, p+"/vol", VolumeOptions{Size: 8 * mib, Sparse: true, Key: own, Props: Props{"volmode": "none"}}),
	); err != nil {
		t.Fatal(err)
	}
	root := func(name, want, status string) {
		t.Helper()
		if d, err := h.Get(ctx, name); err != nil || d.Value("encryptionroot") != want || d.Value("keystatus") != status {
			t.Errorf("%s: %q %q %v, want %q %q", name, d.Value("encryptionroot"), d.Value("keystatus"), err, want, status)
		}
	}
	root(p+"/vol", p+"/vol", "available")
	retry(t, func() error { return h.UnloadKey(ctx, p+"/vol") })
	root(p+"/vol", p+"/vol", "unavailable")
	wantKind(t, "a wrong key", p+"/vol", h.LoadKey(ctx, p+"/vol", key, false), ErrWrongKey)
	if err := h.LoadKey(ctx, p+"/vol", own, false); err != nil {
		t.Error(err)
	}
	root(p+"/e/own", p+"/e/own", "available")
	if err := h.InheritKey(ctx, p+"/e/own"); err != nil {
		t.Fatal(err)
	}
	root(p+"/e/own", p+"/e", "available")
	compareDatasets(t, h, p)
	wantKind(t, "unload where there is no key of its own", p+"/e/own", h.UnloadKey(ctx, p+"/e/own"), ErrKeyNotLoaded)
	if err := h.UnloadKey(ctx, p+"/e"); err != nil {
		t.Fatal(err)
	}
	root(p+"/e/own", p+"/e", "unavailable")
	if err := h.LoadKey(ctx, p+"/e", key, false); err != nil {
		t.Error(err)
	}
	root(p+"/e/own", p+"/e", "available")
	if err := h.InheritKey(ctx, p+"/vol"); err == nil {
		t.Error("a key was inherited from a parent that has none")
	}
}

// How a single stream is received: as a clone, encrypted, over changes; and one
// that another receive has a part of.
func TestRealReceiveOptions(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p, q := streamPool(t, h), testPool(t, h, 512*mib)
	src, at := "/var/tmp/mnt-"+p+"/fs", "/var/tmp/mnt-"+q+"-at"
	t.Cleanup(func() { _ = os.Remove(at) })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mounted := func(name string, o MountOptions, do func()) {
		t.Helper()
		o.At = at
		must(h.Mount(ctx, name, o))
		do()
		must(h.Unmount(ctx, name, false))
	}
	same := func(name string) {
		t.Helper()
		mounted(name, MountOptions{ReadOnly: true}, func() { sameFiles(t, src, at) })
	}
	none := Props{"mountpoint": "none"}
	_, err := h.Copy(ctx, p+"/fs@a", q+"/base", SendOptions{LargeBlocks: true}, ReceiveOptions{Props: none})
	must(err)

	_, err = h.Copy(ctx, p+"/fs@b", q+"/clone", SendOptions{LargeBlocks: true}, ReceiveOptions{Props: none, Origin: q + "/base@a"})
	must(err)
	if d, err := h.Stat(ctx, q+"/clone"); err != nil || d.Origin != q+"/base@a" {
		t.Errorf("the origin is %q, %v", d.Origin, err)
	}
	same(q + "/clone")

	key := RawKey(randomBytes(32))
	_, err = h.Copy(ctx, p+"/fs@b", q+"/secret", SendOptions{}, ReceiveOptions{Props: none, Key: key})
	must(err)
	if d, err := h.Get(ctx, q+"/secret"); err != nil || d.Value("encryptionroot") != q+"/secret" || d.Value("keyformat") != "raw" {
		t.Error(d.Value("encryptionroot"), err)
	}
	same(q + "/secret")
	must(h.UnloadKey(ctx, q+"/secret"))
	wantKind(t, "mount without the key", q+"/secret", h.Mount(ctx, q+"/secret", MountOptions{At: at}), ErrKeyNotLoaded)
	must(h.LoadKey(ctx, q+"/secret", key, false))
	same(q + "/secret")

	// A part of a full stream and of one that goes on from @a, sent on as they are.
	partial := SendOptions{LargeBlocks: true}
	for _, from := range []string{"", "@a"} {
		var stream, saved bytes.Buffer
		o := partial
		o.From = from
		must(h.Send(ctx, &stream, p+"/fs@b", o))
		part, next := q+"/part"+strings.TrimPrefix(from, "@"), q+"/next"+strings.TrimPrefix(from, "@")
		if from != "" {
			for _, name := range []string{part, next} {
				_, err := h.Copy(ctx, p+"/fs"+from, name, partial, ReceiveOptions{Props: none})
				must(err)
			}
		}
		cut := stream.Bytes()[:stream.Len()*2/3]
		keep := ReceiveOptions{Resumable: true}
		if from == "" {
			keep.Props = none
		}
		if _, err := h.Receive(ctx, bytes.NewReader(cut), part, keep); err == nil {
			t.Fatal("a part was received as a whole")
		}
		token := func(name string) *ResumeToken {
			t.Helper()
			d, err := h.Get(ctx, name)
			must(err)
			tok, err := ParseResumeToken(d.Value("receive_resume_token"))
			must(err)
			return tok
		}
		o = partial
		o.Saved = true
		if from != "" {
			o.From = part + from
		}
		must(h.Send(ctx, &saved, part, o))
		if oracle(t) {
			theirs, err := exec.Command("zfs", "send", "-S", part).Output()
			if err != nil || !bytes.Equal(saved.Bytes(), theirs) {
				t.Errorf("saved: %d bytes, zfs send -S %d: %v", saved.Len(), len(theirs), err)
			}
		}
		if _, err := h.Receive(ctx, &saved, next, keep); err == nil {
			t.Error("the saved part was received as a whole")
		}
		a, b := token(part), token(next)
		if a.ToGUID != b.ToGUID || a.ToName != b.ToName || b.Bytes == 0 {
			t.Errorf("%+v was sent on as %+v", a, b)
		}
		var rest bytes.Buffer
		must(h.Send(ctx, &rest, "", SendOptions{Resume: b}))
		_, err := h.Receive(ctx, &rest, next, ReceiveOptions{Resumable: true})
		must(err)
		same(next)
		must(h.AbortReceive(ctx, part))
	}

	// Changes since the last snapshot are in the way, or thrown away.
	change := func() {
		mounted(q+"/base", MountOptions{}, func() { must(os.WriteFile(filepath.Join(at, "mine"), []byte("mine"), 0o600)) })
	}
	change()
	inc := SendOptions{From: "@a", LargeBlocks: true}
	_, err = h.Copy(ctx, p+"/fs@b", q+"/base", inc, ReceiveOptions{})
	wantKind(t, "over changes", q+"/base", err, ErrNotInSync)
	_, err = h.Copy(ctx, p+"/fs@b", q+"/base", inc, ReceiveOptions{Force: true})
	must(err)
	same(q + "/base")
	compareDatasets(t, h, q)
}
