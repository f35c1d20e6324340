// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// The kernel's own lists, decoded and encoded again, are what they were. With
// SKEP_GOLDEN=. they are kept: nvlist/testdata/golden has such.
func TestRealEncodings(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	f := files(t, 3, 128*mib)
	p := testPool(t, h, 0, func(s *PoolSpec) {
		s.Data, s.Cache = []VdevSpec{Mirror(f[0], f[1])}, f[2:]
		s.Props["comment"] = "a pool"
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(h.CreateFilesystem(ctx, p+"/fs", Props{"compression": "zstd-3", "quota": "50M", "skep:user": "property"}))
	must(h.CreateVolume(ctx, p+"/vol", VolumeOptions{Size: mib, Sparse: true, Props: Props{"volmode": "none"}}))
	must(h.CreateSnapshots(ctx, []string{p + "/fs@s", p + "/vol@s"}, Props{"skep:snap": "1"}))
	must(h.Clone(ctx, p+"/fs@s", p+"/c1", nil))
	must(h.Clone(ctx, p+"/fs@s", p+"/c2", nil))
	must(h.Hold(ctx, "tag", []string{p + "/fs@s"}, false))
	must(h.CreateBookmarks(ctx, map[string]string{p + "/fs#mark": p + "/fs@s"}))
	must(h.Sync(ctx, p))
	v, err := h.Version()
	must(err)
	keep := func(what string, b []byte) {
		t.Helper()
		l, n, err := nvlist.DecodePrefix(b)
		if err != nil || l.Len() == 0 {
			t.Errorf("%s: %v", what, err)
			return
		}
		if again, err := l.Encode(nvlist.Encoding(b[0])); err != nil || !bytes.Equal(again, b[:n]) {
			t.Errorf("%s: encoded again it is another (%v)", what, err)
		}
		t.Logf("%s: %d bytes, %d pairs", what, n, l.Len())
		if dir := os.Getenv("SKEP_GOLDEN"); dir != "" {
			name := fmt.Sprintf("%s-%d.%d-%s.nvlist", runtime.GOOS, v.Major, v.Minor, what)
			must(os.WriteFile(filepath.Join(dir, name), b[:n], 0o600))
		}
	}
	for _, q := range []struct {
		what string
		op   zcmd.Op
		name string
		in   *nvlist.List
		want error
	}{
		{"filesystem", zcmd.ObjsetStatsOp, p + "/fs", nil, nil},
		{"volume", zcmd.ObjsetStatsOp, p + "/vol", nil, nil},
		{"snapshot", zcmd.ObjsetStatsOp, p + "/fs@s", nil, nil},
		{"zpl", zcmd.ObjsetZplprops, p + "/fs", nil, nil},
		{"config", zcmd.PoolStats, p, nil, nil},
		{"properties", zcmd.PoolGetProps, p, nil, nil},
		{"holds", zcmd.GetHolds, p + "/fs@s", nil, nil},
		{"bookmarks", zcmd.GetBookmarks, p + "/fs", nil, nil},
		{"errors", zcmd.Snapshot, p, nvlist.New(nvlist.P("snaps", nvlist.New(nvlist.P(p+"/fs@s", true), nvlist.P(p+"/vol@s", true)))), ErrExists},
		{"program", zcmd.ChannelProgram, p, nvlist.New(nvlist.P("arg", nvlist.New()), nvlist.P("program",
			`return {text = "x", yes = true, number = -1, list = {1, 2, "three"}, nested = {deep = {er = 1}}, none = {}}`)), nil},
	} {
		r := h.dev.Request(q.name)
		if q.in != nil {
			must(r.SetInput(q.in))
		}
		if err := fail(q.what, q.op, q.name, r.Do(ctx, q.op)); !errors.Is(err, q.want) {
			t.Errorf("%s: %v", q.what, err)
		}
		keep(q.what, r.Bytes())
		r.Release()
	}
	b, err := os.ReadFile(f[0])
	must(err)
	keep("label", b[labelSkip:labelSkip+labelNvlist])
	b, err = os.ReadFile(f[2])
	must(err)
	keep("cachelabel", b[labelSkip:labelSkip+labelNvlist])
	cache := filepath.Join(filepath.Dir(f[0]), "cache")
	must(h.SetPool(ctx, p, Props{"cachefile": cache}))
	b, err = os.ReadFile(cache)
	must(err)
	keep("cachefile", b)
	must(h.SetPool(ctx, p, Props{"cachefile": "none"}))
}
