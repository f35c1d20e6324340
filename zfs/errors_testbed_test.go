// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// wantKind holds an error against its sentinel; it is to name what was tried and on what.
func wantKind(t *testing.T, what, name string, err, want error) {
	t.Helper()
	var e *Error
	if !errors.Is(err, want) || !errors.As(err, &e) || e.Op == "" || !strings.Contains(e.Error(), name) {
		t.Errorf("%s: %v, want %v of %s", what, err, want, name)
		return
	}
	t.Logf("%s: %v", what, err)
}

func TestRealErrorNames(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 64*mib)
	long := strings.Repeat("n", 120)
	if err := errors.Join(h.CreateFilesystem(ctx, p+"/"+long, nil), h.CreateFilesystem(ctx, p+"/"+long+"/"+long, nil)); err != nil {
		t.Fatal(err)
	}
	// Only the kernel knows what hangs below what is renamed.
	wantKind(t, "rename makes a child's name too long", p+"/"+long, h.Rename(ctx, p+"/"+long, p+"/"+long+long, false), ErrNameTooLong)
	_, err := h.CreateSnapshotTree(ctx, p, long, nil)
	wantKind(t, "a snapshot's name too long", p+"/nnn", err, ErrNameTooLong)
	for bad, want := range map[string]error{
		p + "/a//b": ErrInvalidName, p + "/a b%": ErrInvalidName, "/a": ErrInvalidName, p + "/..": ErrInvalidName, "": ErrInvalidName,
		p + "/" + strings.Repeat("x", 255): ErrNameTooLong, p + strings.Repeat("/d", 60): ErrNameTooLong,
	} {
		name := bad[:min(len(bad), 20)]
		wantKind(t, "create", name, h.CreateFilesystem(ctx, bad, nil), want)
		wantKind(t, "volume", name, h.CreateVolume(ctx, bad, VolumeOptions{Size: mib}), want)
		wantKind(t, "snapshot", name, h.CreateSnapshots(ctx, []string{bad + "@s"}, nil), want)
		wantKind(t, "rename", name, h.Rename(ctx, p+"/"+long, bad, false), want)
		wantKind(t, "mount", name, h.Mount(ctx, bad, MountOptions{}), want)
		_, err := h.Get(ctx, bad)
		wantKind(t, "get", name, err, want)
	}
	wantKind(t, "pool", "mirror", h.CreatePool(ctx, PoolSpec{Name: "mirror"}), ErrInvalidName)
	wantKind(t, "pool", "xxx", h.CreatePool(ctx, PoolSpec{Name: strings.Repeat("x", 250)}), ErrNameTooLong)
	wantKind(t, "tag", p+"@s", h.Hold(ctx, "", []string{p + "@s"}, false), ErrInvalidName)
}

func TestRealErrorSpace(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	src, dst := testPool(t, h, 128*mib), testPool(t, h, 64*mib)
	if err := h.Mount(ctx, src, MountOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/var/tmp/mnt-"+src+"/data", randomBytes(48*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateSnapshots(ctx, []string{src + "@s"}, nil); err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	if err := h.Send(ctx, &stream, src+"@s", SendOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateFilesystem(ctx, dst+"/q", Props{"quota": "10M"}); err != nil {
		t.Fatal(err)
	}
	_, err := h.Receive(ctx, bytes.NewReader(stream.Bytes()), dst+"/q/r@s", ReceiveOptions{})
	wantKind(t, "quota reached", dst+"/q/r", err, ErrQuota)
	_, err = h.Receive(ctx, bytes.NewReader(stream.Bytes()), dst+"/r@s", ReceiveOptions{})
	wantKind(t, "pool full", dst+"/r", err, ErrNoSpace)
	wantKind(t, "a reservation that is not there", dst+"/q", h.Set(ctx, dst+"/q", Props{"refreservation": "1G"}), ErrNoSpace)
	if err := h.CreateFilesystem(ctx, dst+"/l", Props{"filesystem_limit": "0"}); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "a volume over the quota", dst+"/q/v", h.CreateVolume(ctx, dst+"/q/v", VolumeOptions{Size: 32 * mib}), ErrNoSpace)
}

func TestRealErrorBusy(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 128*mib)
	if err := h.CreateVolume(ctx, p+"/v", VolumeOptions{Size: 8 * mib, Sparse: true, Props: Props{"volmode": "dev"}}); err != nil {
		t.Fatal(err)
	}
	node, err := h.WaitVolume(ctx, p+"/v")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, "destroy an open volume", p+"/v", h.Destroy(ctx, p+"/v", DestroyOptions{}), ErrBusy)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := h.MountAll(ctx, p); err != nil {
		t.Fatal(err)
	}
	if f, err = os.Create("/var/tmp/mnt-" + p + "/open"); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "export under an open file", p, h.ExportPool(ctx, p, false), ErrBusy)
	wantKind(t, "destroy under an open file", p, h.DestroyPool(ctx, p), ErrBusy)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateSnapshots(ctx, []string{p + "/v@s"}, nil); err != nil {
		t.Fatal(err)
	}
	retry(t, func() error { return h.Clone(ctx, p+"/v@s", p+"/c", Props{"volmode": "none"}) })
	wantKind(t, "a snapshot with clones", p+"/v@s", h.DestroySnapshots(ctx, []string{p + "/v@s"}, false), ErrHasClones)
	wantKind(t, "and by plan", p+"/c", h.Destroy(ctx, p+"/v@s", DestroyOptions{}), ErrHasClones)
	wantKind(t, "a dataset whose snapshot has clones", p+"/c", h.Destroy(ctx, p+"/v", DestroyOptions{Recursive: true}), ErrHasClones)
}

func TestRealErrorLocked(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 128*mib)
	e := p + "/e"
	if err := h.CreateEncryptedFilesystem(ctx, e, RawKey(randomBytes(32)), nil); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateVolume(ctx, e+"/v", VolumeOptions{Size: 8 * mib, Sparse: true, Props: Props{"volmode": "none"}}); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateSnapshots(ctx, []string{e + "@s", e + "/v@s"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.UnloadKey(ctx, e); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "unload again", e, h.UnloadKey(ctx, e), ErrKeyNotLoaded)
	wantKind(t, "mount", e, h.Mount(ctx, e, MountOptions{}), ErrKeyNotLoaded)
	wantKind(t, "create", e+"/x", h.CreateFilesystem(ctx, e+"/x", nil), ErrKeyNotLoaded)
	wantKind(t, "create a volume", e+"/x", h.CreateVolume(ctx, e+"/x", VolumeOptions{Size: mib, Sparse: true}), ErrKeyNotLoaded)
	wantKind(t, "send", e+"/v@s", h.Send(ctx, io.Discard, e+"/v@s", SendOptions{}), ErrKeyNotLoaded)
	wantKind(t, "change key", e, h.ChangeKey(ctx, e, RawKey(randomBytes(32)), nil), ErrKeyNotLoaded)
	wantKind(t, "wrong key", e, h.LoadKey(ctx, e, RawKey(make([]byte, 32)), false), ErrWrongKey)
}

// A device that is gone: from a pool that is imported, from one that is to be, from one that is to be made.
func TestRealErrorDevice(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	f := files(t, 3, 128*mib)
	p := testPool(t, h, 0, func(s *PoolSpec) { s.Data = []VdevSpec{Mirror(f[0], f[1])} })
	away := func(path string) {
		t.Helper()
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
	}
	back := func(path string) {
		t.Helper()
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Offline(ctx, p, f[1], true); err != nil {
		t.Fatal(err)
	}
	away(f[1])
	wantKind(t, "online", f[1], h.Online(ctx, p, f[1], false), ErrUnavailable)
	comparePool(t, h, p)
	wantKind(t, "attach what is not there", "/none", h.Attach(ctx, p, f[0], "/none"), ErrUnavailable)
	wantKind(t, "replace by what is not there", "/none", h.Replace(ctx, p, f[1], "/none"), ErrUnavailable)
	wantKind(t, "add what is not there", "/none", h.AddVdevs(ctx, p, PoolSpec{Data: []VdevSpec{Disk("/none")}}), ErrUnavailable)
	wantKind(t, "a pool of what is not there", "/none", h.CreatePool(ctx, PoolSpec{Name: "nopool", Data: []VdevSpec{Disk("/none")}}), ErrUnavailable)
	wantKind(t, "no such device", "/none", h.Detach(ctx, p, "/none"), ErrNotFound)
	back(f[1])
	if err := h.Online(ctx, p, f[1], false); err != nil {
		t.Error(err)
	}
	wctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := h.WaitPool(wctx, p, Scanned, nil); err != nil {
		t.Fatal(err)
	}
	comparePool(t, h, p)
	if err := h.ExportPool(ctx, p, false); err != nil {
		t.Fatal(err)
	}
	found, err := h.FindPools(ctx, FindOptions{Paths: f})
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	away(f[0])
	away(f[1])
	wantKind(t, "import", f[0], h.Import(ctx, found[0], ImportOptions{}), ErrUnavailable)
	back(f[0])
	back(f[1])
	// With one of its devices it can be had, and goes by its guid until it is back.
	away(f[1])
	if found, err = h.FindPools(ctx, FindOptions{Paths: f[:1]}); err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if err := h.Import(ctx, found[0], ImportOptions{Props: Props{"cachefile": "none"}}); err != nil {
		t.Fatal(err)
	}
	comparePool(t, h, p)
	back(f[1])
	if err := h.Online(ctx, p, f[1], false); err != nil {
		t.Error(err)
	}
	if err := h.WaitPool(wctx, p, Scanned, nil); err != nil {
		t.Fatal(err)
	}
	comparePool(t, h, p)
}
