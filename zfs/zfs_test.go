// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func list(t *testing.T, h *Handle, root string, opts ...Option) []string {
	t.Helper()
	var out []string
	for d, err := range h.Descend(t.Context(), root, opts...) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, d.Name)
	}
	return out
}

func TestDescend(t *testing.T) {
	k, h := newKernel(t, "tank", "tank/a", "tank/a/b", "tank/a@1", "tank/a@2", "tank/a/b@1", "tank/c", "tank/$MOS", "tank/%recv")
	k.add("tank/v", objsetVolume, "")
	k.add("tank/v@x", objsetVolume, "")
	for _, tc := range []struct {
		what string
		root string
		opts []Option
		want string
	}{
		{"all heads", "tank", nil, "tank tank/a tank/a/b tank/c tank/v"},
		{"volumes", "tank", []Option{Volumes}, "tank/v"},
		{"file systems below", "tank/a", []Option{Filesystems}, "tank/a tank/a/b"},
		{"one deep", "tank", []Option{Depth(1)}, "tank tank/a tank/c tank/v"},
		{"snapshots", "tank", []Option{Snapshots}, "tank/a@1 tank/a@2 tank/a/b@1 tank/v@x"},
		{"snapshots by name", "tank", []Option{Snapshots, NamesOnly}, "tank/a@1 tank/a@2 tank/a/b@1 tank/v@x"},
		{"everything", "tank/a", []Option{Snapshots, Filesystems, With()}, "tank/a tank/a@1 tank/a@2 tank/a/b tank/a/b@1"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			if got := strings.Join(list(t, h, tc.root, tc.opts...), " "); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}

	n := 0
	for range h.Descend(t.Context(), "tank") {
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("stopped after %d", n)
	}
	for _, err := range h.Descend(t.Context(), "none") {
		if !errors.Is(err, ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n = 0
	for _, err := range h.Descend(ctx, "tank") {
		if n++; n == 2 {
			cancel()
		}
		if n > 2 && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if n != 3 {
		t.Errorf("%d rounds of a canceled walk", n)
	}
	k.hook = func(op zcmd.Op, name string) syscall.Errno {
		if op == zcmd.DatasetListNext && name == "tank/a" {
			return syscall.EIO
		}
		return 0
	}
	var last error
	for _, err := range h.Descend(t.Context(), "tank") {
		last = err
	}
	if !errors.Is(last, syscall.EIO) || !strings.Contains(last.Error(), "tank/a") {
		t.Error(last)
	}
}

func TestProperties(t *testing.T) {
	_, h := newKernel(t, "tank", "tank/a")
	ctx := t.Context()
	if err := h.Set(ctx, "tank", Props{"compression": "zstd-3", "quota": "10G", "a:b": "c", "mountpoint": "/mnt"}); err != nil {
		t.Fatal(err)
	}
	if err := h.Set(ctx, "tank/a", Props{"recsize": "1M", "snapshot_limit": "none"}); err != nil {
		t.Fatal(err)
	}
	d, err := h.Get(ctx, "tank/a")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Property{
		{"compression", "zstd-3", 16 | 3<<7, SourceInherited, "tank"},
		{"a:b", "c", 0, SourceInherited, "tank"},
		{"recordsize", "1048576", 1 << 20, SourceLocal, ""},
		{"snapshot_limit", "none", 1<<64 - 1, SourceLocal, ""},
		{"quota", "0", 0, SourceDefault, ""},
		{"atime", "on", 1, SourceDefault, ""},
		{"mountpoint", "/mnt/a", 0, SourceInherited, "tank"},
		{"type", "filesystem", 0, SourceNone, ""},
	} {
		if got, ok := d.Property(want.Name); !ok || got != want {
			t.Errorf("got %+v (%v), want %+v", got, ok, want)
		}
	}
	for _, none := range []string{"volsize", "x:y", "nonsense", "origin"} {
		if p, ok := d.Property(none); ok {
			t.Errorf("%+v", p)
		}
	}
	if u := d.User(); len(u) != 1 || u["a:b"] != "c" {
		t.Error(u)
	}
	seen := 0
	for p := range d.Properties() {
		seen++
		if p.Name == "" || p.Value == "" {
			t.Errorf("%+v", p)
		}
	}
	if seen < 40 {
		t.Errorf("%d properties", seen)
	}
	if err := h.Inherit(ctx, "tank", "compression", false); err != nil {
		t.Fatal(err)
	}
	if d, err = h.Get(ctx, "tank/a"); err != nil || d.Value("compression") != "on" {
		t.Error(d.Value("compression"), err)
	}
	for d, err := range h.Descend(ctx, "tank", With("compress", "a:b")) {
		if err != nil || d.Value("a:b") != "c" || d.props.Len() != 1 {
			t.Error(d.props, err)
		}
	}
	for name, value := range map[string]string{
		"used": "1", "compression": "rar", "quota": "many", "nonsense": "1", "utf8only": "on", "A:b": "x", "x:y": strings.Repeat("v", 8192),
		"mountpoint": "a\x00b", "volsize": "-1",
	} {
		if err := h.Set(ctx, "tank", Props{name: value}); !errors.Is(err, ErrProperty) || !strings.Contains(err.Error(), "tank") {
			t.Errorf("%s=%.20s: %v", name, value, err)
		}
	}
	if err := h.Set(ctx, "tank", Props{"recsize": "1M", "recordsize": "2M"}); !errors.Is(err, ErrProperty) {
		t.Error(err)
	}
}

// What encodeProps takes, the property shows again.
func TestIndexRoundTrip(t *testing.T) {
	for name, p := range properties {
		for _, iv := range p.index {
			v, why := encodeProp(0, name, iv.name, true)
			if p.attr&readOnly != 0 {
				continue
			}
			n, _ := v.Uint()
			if why != "" || n != iv.value {
				t.Errorf("%s=%s: %s %d", name, iv.name, why, n)
			}
			w, _ := encodeProp(0, name, p.show(name, n), true)
			if !w.Equal(v) {
				t.Errorf("%s=%s is shown as %s", name, iv.name, p.show(name, n))
			}
		}
		if p.def != "" && p.attr&readOnly == 0 {
			if _, why := encodeProp(0, name, p.def, true); why != "" {
				t.Errorf("the default of %s: %s", name, why)
			}
		}
	}
}

func TestCreateAndSnapshots(t *testing.T) {
	k, h := newKernel(t, "tank")
	ctx := t.Context()
	if err := h.CreateFilesystem(ctx, "tank/a", Props{"atime": "off"}); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateFilesystem(ctx, "tank/a", nil); !errors.Is(err, ErrExists) || !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	if err := h.CreateFilesystem(ctx, "tank/x/y", nil); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "parent tank/x") {
		t.Error(err)
	}
	if err := h.CreateVolume(ctx, "tank/v", VolumeOptions{Size: 10_000_000, Sparse: true}); err != nil {
		t.Fatal(err)
	}
	v, err := h.Get(ctx, "tank/v")
	if err != nil || v.Kind != Volume || v.Number("volsize") != 10_010_624 || v.Number("refreservation") != 0 {
		t.Errorf("%v %v", v, err)
	}
	if err := h.CreateVolume(ctx, "tank/w", VolumeOptions{Size: 1 << 30, BlockSize: 8192}); err != nil {
		t.Fatal(err)
	}
	if w, err := h.Get(ctx, "tank/w"); err != nil || w.Number("refreservation") < 1<<30 {
		t.Errorf("%v %v", w, err)
	}
	for _, o := range []VolumeOptions{{}, {Size: 1, BlockSize: 1000}, {Size: 1 << 63}} {
		if err := h.CreateVolume(ctx, "tank/bad", o); !errors.Is(err, ErrProperty) {
			t.Error(err)
		}
	}
	if err := h.CreateSnapshots(ctx, []string{"tank/a@x", "tank/v@x"}, Props{"u:p": "1"}); err != nil {
		t.Fatal(err)
	}
	if s, err := h.Get(ctx, "tank/a@x"); err != nil || s.Kind != Snapshot || s.Value("u:p") != "1" {
		t.Error(err)
	}
	err = h.CreateSnapshots(ctx, []string{"tank/a@y", "tank/a@x", "tank/none@x"}, nil)
	if !errors.Is(err, ErrExists) || !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "tank/none@x") {
		t.Error(err)
	}
	if k.ds["tank/a@y"] != nil {
		t.Error("not all or nothing")
	}
	// The kernel tried twice, as another snapshot was in the same transaction group, and says so although it made it.
	k.answer = func(op zcmd.Op, c *zcmd.Cmd, dst []byte) (syscall.Errno, bool) {
		if op != zcmd.Snapshot {
			return 0, false
		}
		return zcmd.FakeReply(c, dst, nvlist.New(nvlist.P("tank/a@again", int32(syscall.EAGAIN)))), true
	}
	if err := h.CreateSnapshots(ctx, []string{"tank/a@again"}, nil); err != nil {
		t.Error(err)
	}
	k.answer = nil
	for names, want := range map[string]error{
		"tank/a@x other/a@x": ErrCrossesPools, "tank/a": ErrInvalidName, "tank/a@": ErrInvalidName, "tank/a@x/y": ErrInvalidName,
		"tank@" + strings.Repeat("x", 260): ErrNameTooLong,
	} {
		if err := h.CreateSnapshots(ctx, strings.Fields(names), nil); !errors.Is(err, want) {
			t.Errorf("%.40s: %v", names, err)
		}
	}
	if err := h.Clone(ctx, "tank/a@x", "tank/c", Props{"s:id": "7"}); err != nil {
		t.Fatal(err)
	}
	if c, err := h.Get(ctx, "tank/c"); err != nil || c.Origin != "tank/a@x" || c.Value("origin") != "tank/a@x" || c.Value("s:id") != "7" {
		t.Error(err)
	}
	if c, err := h.Clones(ctx, "tank/a@x"); err != nil || !slices.Equal(c, []string{"tank/c"}) {
		t.Error(c, err)
	}
	if err := h.Clone(ctx, "tank/a@none", "tank/d", nil); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := h.DestroySnapshots(ctx, []string{"tank/a@x"}, false); !errors.Is(err, ErrHasClones) {
		t.Error(err)
	}
	if names, err := h.CreateSnapshotTree(ctx, "tank", "t", nil); err != nil || len(names) != 5 || k.ds["tank/w@t"] == nil {
		t.Error(names, err)
	}
	if ok, err := h.Exists(ctx, "tank/w@t"); !ok || err != nil {
		t.Error(ok, err)
	}
	if ok, err := h.Exists(ctx, "tank/w@u"); ok || err != nil {
		t.Error(ok, err)
	}
}

func TestDestroyPlan(t *testing.T) {
	tree := []string{"tank", "tank/a", "tank/a@1", "tank/a/b", "tank/a/b@1", "tank/out<tank/a@1", "tank/a/in<tank/a/b@1", "tank/z"}
	for _, tc := range []struct {
		name string
		o    DestroyOptions
		want error
		left string
		says string
	}{
		{"tank/z", DestroyOptions{}, nil, "tank tank/a tank/a/b tank/a/b@1 tank/a/in tank/a@1 tank/out", ""},
		{"tank/none", DestroyOptions{}, ErrNotFound, "", ""},
		{"tank/a", DestroyOptions{}, ErrHasSnapshots, "", "tank/a@1"},
		{"tank/a/b", DestroyOptions{}, ErrHasSnapshots, "", "tank/a/b@1"},
		{"tank", DestroyOptions{}, ErrHasChildren, "", "tank/a, tank/out, tank/z"},
		{"tank/a", DestroyOptions{Recursive: true}, ErrHasClones, "", "tank/out"},
		{"tank/a@1", DestroyOptions{}, ErrHasClones, "", "tank/out"},
		{"tank/a/b@1", DestroyOptions{}, ErrHasClones, "", "tank/a/in"},
		{"tank/a/b", DestroyOptions{Recursive: true}, ErrHasClones, "", "tank/a/in"},
		{"tank/a", DestroyOptions{Clones: true}, nil, "tank tank/z", ""},
		{"tank/a@1", DestroyOptions{Clones: true}, nil, "tank tank/a tank/a/b tank/a/in tank/z", ""},
		{"tank", DestroyOptions{Recursive: true}, nil, "", ""},
	} {
		t.Run(fmt.Sprint(tc.name, tc.o), func(t *testing.T) {
			k, h := newKernel(t, tree...)
			before := k.names()
			err := h.Destroy(t.Context(), tc.name, tc.o)
			if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if tc.want != nil {
				if !slices.Equal(before, k.names()) || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%v; left %v", err, k.names())
				}
				return
			}
			if got := strings.Join(k.names(), " "); got != tc.left && tc.name != "tank/a@1" {
				t.Errorf("left %s\nwant %s", got, tc.left)
			}
			if k.ds[tc.name] != nil {
				t.Error("it is still there")
			}
		})
	}
}

// Whatever the tree, a plan that is made is carried out, and takes what it says and nothing else.
func TestDestroyPlanAny(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		k, h := newKernel(t, "tank")
		for i := range rapid.IntRange(0, 14).Draw(rt, "n") {
			parent := rapid.SampledFrom(k.order).Draw(rt, "at")
			if strings.Contains(parent, "@") {
				k.add(fmt.Sprintf("tank/c%d", i), objsetFilesystem, parent)
			} else if rapid.Bool().Draw(rt, "snap") {
				k.add(fmt.Sprintf("%s@s%d", parent, i), objsetFilesystem, "")
			} else {
				k.add(fmt.Sprintf("%s/d%d", parent, i), objsetFilesystem, "")
			}
		}
		name := rapid.SampledFrom(k.order).Draw(rt, "name")
		o := DestroyOptions{Recursive: rapid.Bool().Draw(rt, "r"), Clones: rapid.Bool().Draw(rt, "R")}
		p, err := h.PlanDestroy(rt.Context(), name, o)
		if err != nil {
			if o.Clones || !errors.Is(err, ErrHasChildren) && !errors.Is(err, ErrHasSnapshots) && !errors.Is(err, ErrHasClones) {
				rt.Fatal(err)
			}
			return
		}
		var want []string
		gone := map[string]bool{}
		for _, s := range p.Snapshots {
			gone[s] = true
		}
		for _, s := range p.Steps {
			gone[s.Name] = true
		}
		for _, n := range k.names() {
			if !gone[n] {
				want = append(want, n)
			}
		}
		if err := h.Execute(rt.Context(), p); err != nil {
			rt.Fatal(err)
		}
		if got := k.names(); !slices.Equal(got, want) || k.ds[name] != nil {
			rt.Fatalf("left %v, want %v", got, want)
		}
	})
}

func TestErrors(t *testing.T) {
	k, h := newKernel(t, "tank", "tank/a", "tank/a@x", "tank/bare")
	ctx := t.Context()
	for _, tc := range []struct {
		errno syscall.Errno
		op    zcmd.Op
		do    func() error
		want  error
	}{
		{syscall.EAGAIN, zcmd.Create, func() error { return h.CreateFilesystem(ctx, "tank/b", nil) }, ErrSuspended},
		{syscall.EPERM, zcmd.Create, func() error { return h.CreateFilesystem(ctx, "tank/b", nil) }, ErrPermission},
		{syscall.ENOSPC, zcmd.Create, func() error { return h.CreateFilesystem(ctx, "tank/b", nil) }, ErrNoSpace},
		{syscall.EDQUOT, zcmd.Create, func() error { return h.CreateFilesystem(ctx, "tank/b", nil) }, ErrQuota},
		{syscall.EROFS, zcmd.Create, func() error { return h.CreateFilesystem(ctx, "tank/b", nil) }, ErrReadOnly},
		{syscall.EACCES, zcmd.Create, func() error { return h.CreateFilesystem(ctx, "tank/b", nil) }, ErrKeyNotLoaded},
		{syscall.EBUSY, zcmd.Destroy, func() error { return h.Destroy(ctx, "tank/bare", DestroyOptions{}) }, ErrBusy},
		{syscall.EEXIST, zcmd.Destroy, func() error { return h.Destroy(ctx, "tank/bare", DestroyOptions{}) }, ErrHasChildren},
		{syscall.EBUSY, zcmd.DestroySnaps, func() error { return h.Destroy(ctx, "tank/a@x", DestroyOptions{}) }, ErrHeld},
		{syscall.EBUSY, zcmd.DestroySnaps, func() error { return h.DestroySnapshots(ctx, []string{"tank/a@x"}, false) }, ErrHeld},
		{syscall.EEXIST, zcmd.Rollback, func() error { return h.Rollback(ctx, "tank/a@x", false) }, ErrNotNewest},
		{syscall.ENXIO, zcmd.ObjsetStatsOp, func() error { _, err := h.Get(ctx, "tank"); return err }, ErrUnavailable},
		{1029, zcmd.Clone, func() error { return h.Clone(ctx, "tank/a@x", "tank/c", nil) }, ErrModuleTooOld},
		{1030, zcmd.Clone, func() error { return h.Clone(ctx, "tank/a@x", "tank/c", nil) }, ErrModuleTooOld},
		{1038, zcmd.Clone, func() error { return h.Clone(ctx, "tank/a@x", "tank/c", nil) }, ErrInProgress},
		{syscall.EXDEV, zcmd.Rename, func() error { return h.Rename(ctx, "tank/a", "other/a", false) }, ErrCrossesPools},
		{syscall.EINVAL, zcmd.Promote, func() error { return h.Promote(ctx, "tank/a") }, ErrInvalid},
		{syscall.EACCES, zcmd.LoadKey, func() error { return h.LoadKey(ctx, "tank/a", HexKey(strings.Repeat("0f", 32)), true) }, ErrWrongKey},
		{syscall.EINVAL, zcmd.SetProp, func() error { return h.Set(ctx, "tank/a", Props{"quota": "1"}) }, ErrProperty},
	} {
		k.hook = func(op zcmd.Op, _ string) syscall.Errno {
			if op == tc.op {
				return tc.errno
			}
			return 0
		}
		err := tc.do()
		var e *Error
		if !errors.Is(err, tc.want) || !errors.As(err, &e) || e.Name == "" || e.Op == "" {
			t.Errorf("%v on %#x: %v, want %v", tc.errno, tc.op, err, tc.want)
		}
		if tc.errno < 1024 && !errors.Is(err, tc.errno) {
			t.Errorf("%v does not wrap its errno", err)
		}
	}
}

func TestNames(t *testing.T) {
	deep := "p" + strings.Repeat("/x", 50)
	for name, want := range map[string]error{
		"tank": nil, "tank/a b:c-d_e.f": nil, "t/" + strings.Repeat("x", 253): nil, "t/" + strings.Repeat("x", 254): ErrNameTooLong,
		deep: ErrNameTooLong, deep[:len(deep)-2]: nil, "": ErrInvalidName, "/tank": ErrInvalidName, "tank/": ErrInvalidName,
		"tank//a": ErrInvalidName, "1tank": ErrInvalidName, "tank/ä": ErrInvalidName, "tank/%recv": ErrInvalidName, "tank/..": ErrInvalidName,
		"tank/a@b": nil, "tank@b/c": ErrInvalidName, "tank@a@b": ErrInvalidName, "tank#m": nil, "tank#": ErrInvalidName, "tank\x00a": ErrInvalidName,
		"@x": ErrInvalidName,
	} {
		if err := checkAny("test", name); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%.40q: %v, want %v", name, err, want)
		}
	}
	for name, ok := range map[string]bool{"tank": true, "mirror1": false, "raidz2": false, "log": false, "a/b": false, "spare": false} {
		if err := checkNewPool("test", name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]uint64{
		"0": 0, "1": 1, "10K": 10240, "1.5g": 3 << 29, "16EiB": 0, "15E": 15 << 60, "2TB": 2 << 40, "1B": 1, "18446744073709551615": 1<<64 - 1, "0.5k": 512,
	} {
		n, err := ParseSize(s)
		if s == "16EiB" {
			if err == nil {
				t.Error("overflow was taken")
			}
			continue
		}
		if err != nil || n != want {
			t.Errorf("%s: %d %v, want %d", s, n, err, want)
		}
	}
	for _, s := range []string{"", "K", "-1", "1.5", "1X", "1KK", "0x10", "1e3K", "99999999999999999999", "1/2K", "1 K", "Infinity", "1_0"} {
		if n, err := ParseSize(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %d %v", s, n, err)
		}
	}
}

func TestVersion(t *testing.T) {
	for s, want := range map[string]Version{
		"2.3.2-2\n": {2, 3, 2, "2.3.2-2"}, "v2.1.11-1": {2, 1, 11, "v2.1.11-1"}, "2.4.2-FreeBSD_g1234": {2, 4, 2, "2.4.2-FreeBSD_g1234"},
		"2.2.0-rc1": {2, 2, 0, "2.2.0-rc1"},
	} {
		if v, err := parseVersion(s); err != nil || v != want {
			t.Errorf("%q: %+v %v", s, v, err)
		}
	}
	if _, err := parseVersion("what"); err == nil {
		t.Error("nonsense was taken")
	}
}

// What is made with a key is encrypted, unless its properties say how.
func TestKeyEncrypts(t *testing.T) {
	k, h := newKernel(t, "tank")
	key := RawKey(make([]byte, 32))
	for name, o := range map[string]struct {
		o    VolumeOptions
		want uint64
	}{
		"tank/on": {VolumeOptions{Size: 1 << 20, Key: key}, 1}, "tank/plain": {VolumeOptions{Size: 1 << 20}, 0},
		"tank/gcm": {VolumeOptions{Size: 1 << 20, Key: key, Props: Props{"encryption": "aes-128-gcm"}}, 6},
	} {
		if err := h.CreateVolume(t.Context(), name, o.o); err != nil {
			t.Fatal(err)
		}
		if n, _ := k.ds[name].props.Uint("encryption"); n != o.want {
			t.Errorf("%s: encryption %d, want %d", name, n, o.want)
		}
	}
}

func TestKeyDoesNotShow(t *testing.T) {
	for _, k := range []Key{RawKey(make([]byte, 32)), HexKey("secretsecret"), Passphrase("secretsecret"), nil} {
		if s := fmt.Sprintf("%v %s", k, k); strings.Contains(s, "secret") {
			t.Error(s)
		}
	}
	// RFC 6070's method with the salt as a little-endian number, as derive_key has it.
	w, err := Passphrase("password1").wrapping("t", "n", 1, 2)
	if err != nil || len(w) != 32 {
		t.Error(w, err)
	}
	for _, k := range []Key{RawKey(nil), HexKey("zz"), Passphrase("short"), nil} {
		if _, err := k.wrapping("t", "n", 0, 1); !errors.Is(err, ErrWrongKey) {
			t.Errorf("%v: %v", k, err)
		}
	}
}

func TestWaitPool(t *testing.T) {
	k, h := newKernel(t, "tank")
	release := make(chan struct{})
	answer := syscall.Errno(0)
	k.hook = func(op zcmd.Op, name string) syscall.Errno {
		if op == zcmd.Wait {
			k.mu.Unlock()
			<-release
			k.mu.Lock()
			return answer
		}
		return 0
	}
	// A context that ends is heard as soon as the request does.
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	close(release)
	if err := h.WaitPool(ctx, "tank", Scanned, nil); !errors.Is(err, why) {
		t.Error(err)
	}
	for errno, want := range map[syscall.Errno]error{
		syscall.EAGAIN: ErrSuspended, syscall.ENOENT: ErrNotFound, syscall.EPERM: ErrPermission,
		syscall.EROFS: ErrModuleTooOld, syscall.Errno(errCmdUnavail): ErrModuleTooOld, // goes on to the status, which is not faked
	} {
		answer = errno
		if err := h.WaitPool(t.Context(), "tank", Freed, nil); !errors.Is(err, want) {
			t.Errorf("%v: %v, want %v", errno, err, want)
		}
	}
}
