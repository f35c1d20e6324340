// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testseed"
	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// After a random sequence of operations by ours, the commands see what we see.
func TestRealRandom(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	rnd := testseed.Rand(t)
	dir := filepath.Dir(files(t, 1, 0)[0])
	cache := filepath.Join(dir, "cache")
	// FreeBSD's kernel keeps no cache file in a directory of UFS that is not on disk
	// itself yet: fsync of it wants to begin anew, it seems, and ZFS takes that for a failure.
	if d, err := os.Open(dir); err != nil || errors.Join(d.Sync(), d.Close()) != nil {
		t.Fatal(dir, err)
	}
	root := testPool(t, h, 256*mib, func(s *PoolSpec) { s.Props["cachefile"] = cache })
	pick := func(opts ...Option) string {
		var all []string
		for d, err := range h.Descend(ctx, root, opts...) {
			if err != nil {
				t.Fatal(err)
			}
			if d.Name != root {
				all = append(all, d.Name)
			}
		}
		if len(all) == 0 {
			return root
		}
		return all[rnd.IntN(len(all))]
	}
	did := map[string]int{}
	operations := 40
	if os.Getenv("SKEP_SOAK") != "" {
		operations = 400
	}
	for i := range operations {
		name := fmt.Sprintf("%s/d%d", root, i)
		var what string
		var err error
		switch rnd.IntN(12) {
		case 0:
			what, err = "filesystem", h.CreateFilesystem(ctx, name, Props{"compression": "lz4", "t:i": fmt.Sprint(i), "quota": "50M"})
		case 1:
			what, err = "nested", h.CreateFilesystem(ctx, fmt.Sprintf("%s/n%d", pick(Filesystems), i), Props{"mountpoint": "none"})
		case 2:
			what, err = "volume", h.CreateVolume(ctx, name, VolumeOptions{Size: 1 << 20, Sparse: rnd.IntN(2) == 0, BlockSize: 8192})
		case 3, 4:
			what, err = "snapshot", h.CreateSnapshots(ctx, []string{fmt.Sprintf("%s@s%d", pick(), i)}, Props{"t:snap": "yes"})
		case 5:
			if s := pick(Snapshots); strings.Contains(s, "@") {
				what, err = "clone", h.Clone(ctx, s, name, Props{"t:clone": "1"})
			}
		case 6:
			what, err = "set", h.Set(ctx, pick(Filesystems), Props{"atime": []string{"on", "off"}[i%2], "t:n": fmt.Sprint(i), "recordsize": "64K"})
		case 7:
			what, err = "inherit", h.Inherit(ctx, pick(), []string{"t:n", "compression", "atime"}[i%3], false)
		case 8:
			if d := pick(Volumes); d != root {
				what, err = "rename", h.Rename(ctx, d, fmt.Sprintf("%s/r%d", root, i), false)
			}
		case 9:
			if d := pick(); d != root {
				var e error
				if _, e = h.PlanDestroy(ctx, d, DestroyOptions{Recursive: true}); e == nil {
					what, err = "destroy", h.Destroy(ctx, d, DestroyOptions{Recursive: true})
				}
			}
		case 10:
			if s := pick(Snapshots); strings.Contains(s, "@") {
				fs, snap, _ := cutSnapshot(s)
				what, err = "bookmark", h.CreateBookmarks(ctx, map[string]string{fmt.Sprintf("%s#b%d", fs, i): fs + "@" + snap})
			}
		case 11:
			if s := pick(Snapshots); strings.Contains(s, "@") {
				what, err = "hold", h.Hold(ctx, "keep", []string{s}, false)
				if err == nil {
					err = h.Release(ctx, "keep", []string{s})
				}
			}
		}
		if errors.Is(err, ErrBusy) { // a zvol's node that udev looks at
			time.Sleep(200 * time.Millisecond)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		did[what]++
		if i%40 == 39 && i+1 < operations {
			compareDatasets(t, h, root)
		}
	}
	t.Log(did)
	compareDatasets(t, h, root)
	comparePool(t, h, root)
	compareHistory(t, h, root)
	compareOnDisk(t, h, root, cache)
	// And the other way round.
	if !oracle(t) {
		return
	}
	fs := root + "/byzfs"
	tool(t, "zfs", "create", "-o", "mountpoint=none", "-o", "x:y=z", "-o", "sync=always", fs)
	tool(t, "zfs", "create", "-V", "8M", "-o", "volmode=dev", fs+"/vol")
	tool(t, "zfs", "snapshot", "-r", fs+"@one")
	tool(t, "zfs", "clone", "-o", "canmount=noauto", fs+"@one", root+"/byclone")
	tool(t, "zfs", "set", "special_small_blocks=16K", fs)
	compareDatasets(t, h, fs)
	compareDatasets(t, h, root+"/byclone")
	compareHistory(t, h, root)
}

func TestRealSnapshots(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 256*mib)
	for _, n := range []string{"/a", "/a/b", "/c"} {
		if err := h.CreateFilesystem(ctx, p+n, nil); err != nil {
			t.Fatal(err)
		}
	}
	names, err := h.CreateSnapshotTree(ctx, p, "one", Props{"u:p": "1"})
	if err != nil || len(names) != 4 {
		t.Fatal(names, err)
	}
	txg := map[uint64]bool{}
	for d, err := range h.Descend(ctx, p, Snapshots) {
		if err != nil {
			t.Fatal(err)
		}
		txg[d.CreateTxg] = true
	}
	if len(txg) != 1 {
		t.Errorf("snapshots of %d transaction groups", len(txg))
	}
	if err := h.CreateSnapshots(ctx, []string{p + "@two", p + "/a@one"}, nil); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	if ok, _ := h.Exists(ctx, p+"@two"); ok {
		t.Error("half of it happened")
	}
	if err := h.Hold(ctx, "tag", []string{p + "/a@one", p + "/c@one"}, false); err != nil {
		t.Fatal(err)
	}
	if holds, err := h.Holds(ctx, p+"/a@one"); err != nil || len(holds) != 1 || time.Since(holds["tag"]) > time.Hour {
		t.Error(holds, err)
	}
	if oracle(t) {
		if out := tool(t, "zfs", "holds", "-H", p+"/a@one"); !strings.Contains(out, "tag") {
			t.Error(out)
		}
	}
	if err := h.DestroySnapshots(ctx, []string{p + "/a@one", p + "@one"}, false); !errors.Is(err, ErrHeld) {
		t.Error(err)
	}
	if ok, _ := h.Exists(ctx, p+"@one"); !ok {
		t.Error("half of it happened")
	}
	if err := h.Hold(ctx, "tag", []string{p + "/a@one"}, false); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	if err := h.Hold(ctx, "tag", []string{p + "/a@none"}, false); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := h.DestroySnapshots(ctx, []string{p + "/a@one"}, true); err != nil {
		t.Fatal(err)
	}
	if d, err := h.Get(ctx, p+"/a@one"); err != nil || d.Value("defer_destroy") != "on" {
		t.Error(d.Value("defer_destroy"), err)
	}
	if err := h.Release(ctx, "tag", []string{p + "/a@one"}); err != nil {
		t.Fatal(err)
	}
	if ok, err := h.Exists(ctx, p+"/a@one"); ok || err != nil {
		t.Error("a deferred destroy did not happen", err)
	}
	// Holds that end with their handle.
	own, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := own.Hold(ctx, "temp", []string{p + "@one"}, true); err != nil {
		t.Fatal(err)
	}
	if err := h.DestroySnapshots(ctx, []string{p + "@one"}, false); !errors.Is(err, ErrHeld) {
		t.Error(err)
	}
	if err := own.Close(); err != nil {
		t.Fatal(err)
	}
	if holds, err := h.Holds(ctx, p+"@one"); err != nil || len(holds) != 0 {
		t.Error(holds, err)
	}
	// Rollback, bookmarks, clones, promotion.
	c := p + "/c"
	if err := h.Release(ctx, "tag", []string{c + "@one"}); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateBookmarks(ctx, map[string]string{c + "#mark": c + "@one"}); err != nil {
		t.Fatal(err)
	}
	b, err := h.Get(ctx, c+"#mark")
	s, serr := h.Get(ctx, c+"@one")
	if err != nil || serr != nil || b.GUID != s.GUID || b.CreateTxg != s.CreateTxg || b.Number("creation") != s.Number("creation") {
		t.Error(b, s, err, serr)
	}
	if err := h.CreateSnapshots(ctx, []string{c + "@two"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.Rollback(ctx, c+"@one", false); !errors.Is(err, ErrNotNewest) {
		t.Error(err)
	}
	if err := h.Clone(ctx, c+"@two", p+"/clone", nil); err != nil {
		t.Fatal(err)
	}
	if err := h.Rollback(ctx, c+"@one", true); !errors.Is(err, ErrHasClones) {
		t.Error(err)
	}
	if err := h.Destroy(ctx, c, DestroyOptions{Recursive: true}); !errors.Is(err, ErrHasClones) || !strings.Contains(err.Error(), p+"/clone") {
		t.Error(err)
	}
	if err := h.Promote(ctx, p+"/clone"); err != nil {
		t.Fatal(err)
	}
	if d, err := h.Get(ctx, c); err != nil || d.Origin != p+"/clone@two" {
		t.Error(d, err)
	}
	if err := h.Promote(ctx, p+"/clone"); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if err := h.Destroy(ctx, p+"/clone", DestroyOptions{Clones: true}); err != nil {
		t.Error(err)
	}
	compareDatasets(t, h, p)
	if w, err := h.Written(ctx, p, p+"@one"); err != nil {
		t.Error(w, err)
	}
	if _, err := h.Reclaimed(ctx, p+"@one", p+"@one"); err != nil {
		t.Error(err)
	}
}

// For each request of the new style: every required key missing, each key of a
// wrong type, and a key that is unknown, as libzfs_input_check expects it.
func TestRealInputRules(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 128*mib)
	if err := h.CreateFilesystem(ctx, p+"/a", nil); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateSnapshots(ctx, []string{p + "/a@x"}, nil); err != nil {
		t.Fatal(err)
	}
	type key struct {
		name     string
		good     nvlist.Value
		optional bool
		since    int // the minor version of OpenZFS 2 that brought it
	}
	need := func(name string, good nvlist.Value) key { return key{name, good, false, 0} }
	may := func(name string, good nvlist.Value) key { return key{name, good, true, 0} }
	list, flag, str, yes := nvlist.Of(nvlist.New()), nvlist.Of(nvlist.Flag{}), nvlist.Of("x"), nvlist.Of(false)
	num, i32 := nvlist.Of(uint64(0)), nvlist.Of(int32(0))
	known := h.known()
	// Keys of any name, as many as there are: none will do only where they are optional.
	const anyName = "*"
	const setBootenv = 0x87 // it takes keys of any name and type besides its own
	for _, r := range []struct {
		op    zcmd.Op
		since int
		name  string
		keys  []key
	}{
		{zcmd.Create, 0, p + "/new", []key{need("type", i32), may("props", list), may("hidden_args", list)}},
		{zcmd.Clone, 0, p + "/new", []key{need("origin", str), may("props", list), may("hidden_args", list)}},
		{zcmd.Snapshot, 0, p, []key{need("snaps", list), may("props", list)}},
		{zcmd.DestroySnaps, 0, p, []key{need("snaps", list), may("defer", flag)}},
		{zcmd.Rollback, 0, p + "/a", []key{may("target", nvlist.Of(p+"/a@x"))}},
		{zcmd.Bookmark, 0, p, []key{need(anyName, str)}},
		{zcmd.GetBookmarks, 0, p + "/a", []key{may(anyName, flag)}},
		{zcmd.GetBookmarkProp, 0, p + "/a#x", nil},
		{zcmd.DestroyBookmark, 0, p, []key{need(anyName, flag)}},
		{zcmd.Hold, 0, p, []key{need("holds", list), may("cleanup_fd", i32)}},
		{zcmd.Release, 0, p, []key{need(anyName, list)}},
		{zcmd.GetHolds, 0, p + "/a@x", nil},
		{zcmd.SpaceSnaps, 0, p + "/a@x", []key{need("firstsnap", str)}},
		{zcmd.SendNew, 0, p + "/a@x", []key{need("fd", nvlist.Of(int32(-1))), may("fromsnap", str), may("largeblockok", flag), may("embedok", flag),
			may("compressok", flag), may("rawok", flag), may("savedok", flag), may("resume_object", num), may("resume_offset", num), may("redactbook", str)}},
		{zcmd.SendSpace, 0, p + "/a@x", []key{may("from", str), may("fromsnap", str), may("largeblockok", flag), may("embedok", flag),
			may("compressok", flag), may("rawok", flag), may("fd", i32), may("redactbook", str), may("resume_object", num), may("resume_offset", num),
			may("bytes", num)}},
		{zcmd.RecvNew, 0, p, []key{need("snapname", nvlist.Of(p+"/r@x")), need("begin_record", nvlist.Of(make([]byte, recordSize))),
			need("input_fd", nvlist.Of(int32(-1))), may("props", list), may("localprops", list), may("origin", str), may("force", flag),
			{"heal", flag, true, 2}, may("resumable", flag), may("cleanup_fd", i32), may("action_handle", num), may("hidden_args", list)}},
		{zcmd.PoolSync, 0, p, []key{need("force", yes)}},
		{zcmd.ChannelProgram, 0, p, []key{need("program", nvlist.Of("return 1")), need("arg", list), may("sync", yes),
			may("instrlimit", nvlist.Of(uint64(1000))), may("memlimit", nvlist.Of(uint64(1<<20)))}},
		{zcmd.LoadKey, 0, p + "/a", []key{need("hidden_args", list), may("noop", flag)}},
		{zcmd.UnloadKey, 0, p + "/a", nil},
		{zcmd.ChangeKey, 0, p + "/a", []key{may("crypt_cmd", num), may("hidden_args", list), may("props", list)}},
		{zcmd.LogHistory, 0, "", []key{need("message", str)}},
		{zcmd.PoolGetProps, 3, p, []key{may("get_props_names", nvlist.Of([]string{"x"}))}},
		{zcmd.PoolScrub, 2, p, []key{need("scan_type", num), need("scan_command", num), {"scan_date_start", num, true, 4}, {"scan_date_end", num, true, 4}}},
		{zcmd.PoolInitialize, 0, p, []key{need("initialize_command", num), need("initialize_vdevs", list)}},
		{zcmd.PoolTrim, 0, p, []key{need("trim_command", num), need("trim_vdevs", list), may("trim_rate", num), may("trim_secure", yes)}},
		{zcmd.Wait, 0, p, []key{need("wait_activity", i32), may("wait_tag", num)}},
		{zcmd.WaitFS, 0, p + "/a", []key{need("wait_activity", i32)}},
		{zcmd.PoolReopen, 0, p, []key{may("scrub_restart", yes)}},
		{zcmd.PoolCheckpoint, 0, p, nil},
		{zcmd.PoolDiscardChk, 0, p, nil},
		// What this package does not use.
		{setBootenv, 0, p, []key{need("version", num)}}, // set the boot environment's nvlist
		{0x88, 0, p, nil},        // get it
		{0x4c, 0, p + "/a", nil}, // remap
		{0x51, 0, p + "/a@x", []key{need("bookname", str), need("snapnv", list)}},                        // redact
		{0x55, 2, p, []key{need("vdevprops_get_vdev", num), may("vdevprops_get_props", list)}},           // get properties of a device
		{0x56, 2, p, []key{need("vdevprops_set_vdev", num), need("vdevprops_set_props", list)}},          // set them
		{0x58, 3, p, []key{need("prefetch_type", i32)}},                                                  // prefetch
		{0x59, 3, p, []key{need("ddt_prune_unit", i32), need("ddt_prune_amount", nvlist.Of(uint64(1)))}}, // prune the deduplication table
	} {
		send := func(l *nvlist.List) error {
			req := h.dev.Request(r.name)
			defer req.Release()
			if err := req.SetInput(l); err != nil {
				t.Fatal(err)
			}
			return req.DoSized(ctx, r.op, 1<<20)
		}
		all := func(except string) *nvlist.List {
			l := nvlist.New()
			for _, k := range r.keys {
				if k.name != except && !k.optional {
					l.Set(k.name, k.good)
				}
			}
			return l
		}
		check := func(what string, l *nvlist.List, want Errno) {
			t.Helper()
			if err := send(l); !errors.Is(err, syscall.Errno(want)) {
				t.Errorf("%#x, %s: %v, want %v", uint32(r.op), what, err, want)
			}
		}
		if !known.AtLeast(2, r.since) {
			if r.op != zcmd.PoolGetProps { // of the old style before
				check("a request of a later version", all(""), errCmdUnavail)
			}
			continue
		}
		unknown := errArgUnavail
		for _, k := range r.keys {
			l := all(k.name)
			if !known.AtLeast(2, k.since) {
				l.Set(k.name, k.good)
				check(k.name+", of a later version", l, errArgUnavail)
				continue
			}
			if !k.optional {
				check(k.name+" missing", l, errArgRequired)
			}
			if k.name == anyName {
				unknown = errArgBadType // any name will do, of one type
			}
			if r.op == zcmd.ChannelProgram && k.name == "arg" {
				continue // of any type
			}
			wrong := nvlist.Of([]string{"wrong"})
			if k.name == "get_props_names" {
				wrong = str
			}
			l.Set(k.name, wrong)
			check(k.name+" of a wrong type", l, errArgBadType)
		}
		if r.op == setBootenv {
			continue
		}
		l := all("")
		nvlist.Set(l, "nonsense", uint64(1))
		check("an unknown key", l, unknown)
	}
	if err := h.dev.Request("").DoOnce(ctx, zcmd.Op(0x7e)); !errors.Is(err, syscall.Errno(errCmdUnavail)) {
		t.Errorf("an unknown request: %v", err)
	}
}

func TestRealErrors(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 64*mib)
	mnt := "/var/tmp/mnt-" + p
	if err := h.CreateFilesystem(ctx, p+"/q", Props{"quota": "5M"}); err != nil {
		t.Fatal(err)
	}
	if err := h.MountAll(ctx, p); err != nil {
		t.Fatal(err)
	}
	check := func(what string, err, want error) {
		t.Helper()
		var e *Error
		if !errors.Is(err, want) || !errors.As(err, &e) || e.Name == "" {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		t.Log(err)
	}
	check("no dataset", h.Set(ctx, p+"/none", Props{"atime": "on"}), ErrNotFound)
	check("no parent", h.CreateFilesystem(ctx, p+"/none/x", nil), ErrNotFound)
	check("no pool", h.CreateFilesystem(ctx, "nopool/x", nil), ErrNotFound)
	check("exists", h.CreateFilesystem(ctx, p+"/q", nil), ErrExists)
	check("name", h.CreateFilesystem(ctx, p+"/q%", nil), ErrInvalidName)
	check("long name", h.CreateFilesystem(ctx, p+"/"+strings.Repeat("x", 255), nil), ErrNameTooLong)
	check("mounted twice", h.Mount(ctx, p+"/q", MountOptions{}), ErrBusy)
	f, err := os.Create(mnt + "/q/open")
	if err != nil {
		t.Fatal(err)
	}
	check("busy", h.Destroy(ctx, p+"/q", DestroyOptions{}), ErrBusy)
	check("unmount busy", h.Unmount(ctx, p+"/q", false), ErrBusy)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	check("a volume beyond the quota", h.CreateVolume(ctx, p+"/big", VolumeOptions{Size: 1 << 40}), ErrNoSpace)
	check("a quota below what is used", func() error {
		if err := os.WriteFile(mnt+"/q/data", randomBytes(3*mib), 0o600); err != nil {
			t.Fatal(err)
		}
		_ = h.Sync(ctx, p)
		return h.Set(ctx, p+"/q", Props{"quota": "1M"})
	}(), ErrNoSpace)
	for err = nil; err == nil; { // fill it
		err = os.WriteFile(filepath.Join(mnt, "q", fmt.Sprint(rand.Int())), randomBytes(mib), 0o600)
	}
	if !errors.Is(err, syscall.EDQUOT) {
		t.Error(err)
	}
	for err = nil; err == nil; {
		err = os.WriteFile(filepath.Join(mnt, fmt.Sprint(rand.Int())), randomBytes(mib), 0o600)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	_ = h.Sync(ctx, p)
	check("pool full", h.CreateVolume(ctx, p+"/v", VolumeOptions{Size: 32 * mib}), ErrNoSpace)
	check("key not loaded", func() error {
		q := testPool(t, h, 128*mib)
		if err := h.CreateEncryptedFilesystem(ctx, q+"/e", Passphrase("password"), Props{"pbkdf2iters": "100000"}); err != nil {
			t.Fatal(err)
		}
		if err := h.UnloadKey(ctx, q+"/e"); err != nil {
			t.Fatal(err)
		}
		check("wrong key", h.LoadKey(ctx, q+"/e", Passphrase("passworD"), false), ErrWrongKey)
		check("mount without a key", h.Mount(ctx, q+"/e", MountOptions{}), ErrKeyNotLoaded)
		return h.CreateFilesystem(ctx, q+"/e/x", nil)
	}(), ErrKeyNotLoaded)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

func TestRealKeys(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 256*mib)
	raw := randomBytes(32)
	hexKey := strings.Repeat("0123456789abcdef", 4)
	dir := filepath.Dir(files(t, 1, 0)[0])
	for name, k := range map[string]struct {
		key  Key
		file []byte
	}{
		"raw": {RawKey(raw), raw}, "hex": {HexKey(hexKey), []byte(hexKey)}, "passphrase": {Passphrase("a good passphrase"), []byte("a good passphrase")},
	} {
		t.Run(name, func(t *testing.T) {
			keyFile := filepath.Join(dir, name)
			if err := os.WriteFile(keyFile, k.file, 0o600); err != nil {
				t.Fatal(err)
			}
			ours, theirs := p+"/ours-"+name, p+"/theirs-"+name
			props := Props{"keylocation": "file://" + keyFile, "mountpoint": "none"}
			args := []string{"create", "-o", "mountpoint=none", "-o", "encryption=on", "-o", "keyformat=" + name, "-o", "keylocation=file://" + keyFile}
			if name == "passphrase" { // as few as there may be: it is slow where a CPU is emulated
				props["pbkdf2iters"] = "100000"
				args = append(args, "-o", "pbkdf2iters=100000")
			}
			if err := h.CreateEncryptedFilesystem(ctx, ours, k.key, props); err != nil {
				t.Fatal(err)
			}
			commands := oracle(t)
			if commands {
				tool(t, "zfs", append(args, theirs)...)
			} else if err := h.CreateEncryptedFilesystem(ctx, theirs, k.key, props); err != nil {
				t.Fatal(err)
			}
			unload := func(name string) {
				t.Helper()
				if commands {
					tool(t, "zfs", "unload-key", name)
				} else if err := h.UnloadKey(ctx, name); err != nil {
					t.Fatal(err)
				}
			}
			compareDatasets(t, h, p)
			if err := h.CreateVolume(ctx, ours+"/v", VolumeOptions{Size: 4 * mib, Sparse: true}); err != nil {
				t.Fatal(err)
			}
			if _, err := h.WaitVolume(ctx, ours+"/v"); err != nil {
				t.Fatal(err)
			}
			if d, err := h.Get(ctx, ours+"/v"); err != nil || d.Value("encryptionroot") != ours || d.Value("keystatus") != "available" {
				t.Error(d.Value("encryptionroot"), err)
			}
			retry(t, func() error { return h.UnloadKey(ctx, ours) })
			if commands {
				tool(t, "zfs", "load-key", ours)
			}
			unload(theirs)
			if err := h.LoadKey(ctx, theirs, k.key, true); err != nil {
				t.Error(err)
			}
			if err := h.LoadKey(ctx, theirs, k.key, false); err != nil {
				t.Error(err)
			}
			if err := h.LoadKey(ctx, theirs, k.key, false); !errors.Is(err, ErrExists) {
				t.Error(err)
			}
			next := HexKey(strings.Repeat("fedcba9876543210", 4))
			if err := h.ChangeKey(ctx, theirs, next, Props{"keylocation": "prompt"}); err != nil {
				t.Fatal(err)
			}
			unload(theirs)
			if err := h.LoadKey(ctx, theirs, k.key, false); !errors.Is(err, ErrWrongKey) {
				t.Error(err)
			}
			if err := h.LoadKey(ctx, theirs, next, false); err != nil {
				t.Error(err)
			}
		})
	}
}

// retry is for what a zvol's node that udev looks at keeps busy for a moment.
func retry(t *testing.T, do func() error) {
	t.Helper()
	var err error
	for range 50 {
		if err = do(); !errors.Is(err, ErrBusy) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestRealParallelClones(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 256*mib)
	if err := h.CreateVolume(ctx, p+"/image", VolumeOptions{Size: 16 * mib, Sparse: true, Props: Props{"volmode": "dev"}}); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateSnapshots(ctx, []string{p + "/image@v1"}, nil); err != nil {
		t.Fatal(err)
	}
	const n = 32
	errs := make([]error, n)
	paths := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			name := fmt.Sprintf("%s/vm%d", p, i)
			if errs[i] = h.Clone(ctx, p+"/image@v1", name, Props{"skep:id": fmt.Sprint(i), "skep:state": "created"}); errs[i] == nil {
				paths[i], errs[i] = h.WaitVolume(ctx, name)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	if len(slices.Compact(paths)) != n {
		t.Error("nodes are shared", paths)
	}
	// What is written to one clone is there, in no other.
	f, err := os.OpenFile(paths[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	sector := make([]byte, 4096) // FreeBSD's devices take and give whole ones
	copy(sector, "only here")
	if _, err := f.WriteAt(sector, 4096); err != nil {
		t.Error(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Error(err)
	}
	for i, want := range []bool{true, false} {
		f, err := os.Open(paths[i])
		if err != nil {
			t.Fatal(err)
		}
		all := make([]byte, 16*mib)
		if _, err := f.ReadAt(all, 0); err != nil || bytes.Equal(all[4096:8192], sector) != want {
			t.Error(paths[i], err)
		}
		_ = f.Close()
	}
	if c, err := h.Clones(ctx, p+"/image@v1"); err != nil || len(c) != n {
		t.Error(len(c), err)
	}
	if err := h.Rename(ctx, p+"/vm0", p+"/renamed", false); err != nil {
		t.Error(err)
	}
	if _, err := h.WaitVolume(ctx, p+"/renamed"); err != nil {
		t.Error(err)
	}
	if _, err := h.VolumePath(p + "/vm0"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	wctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := h.WaitVolume(wctx, p+"/none"); !errors.Is(err, ErrNotFound) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestRealDiff(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 128*mib)
	if err := h.MountAll(ctx, p); err != nil {
		t.Fatal(err)
	}
	mnt := "/var/tmp/mnt-" + p
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"gone", "changed", "old name", "linked", "same"} {
		must(os.WriteFile(filepath.Join(mnt, n), []byte(n), 0o600))
	}
	must(os.Mkdir(mnt+"/dir", 0o700), h.CreateSnapshots(ctx, []string{p + "@1"}, nil))
	time.Sleep(1100 * time.Millisecond)
	must(os.Remove(mnt+"/gone"), os.WriteFile(mnt+"/changed", []byte("new"), 0o600), os.Rename(mnt+"/old name", mnt+"/dir/new"),
		os.Link(mnt+"/linked", mnt+"/dir/link"), os.WriteFile(mnt+"/added", nil, 0o600), h.CreateSnapshots(ctx, []string{p + "@2"}, nil))
	var got []string
	for c, err := range h.Diff(ctx, p+"@1", p+"@2") {
		must(err)
		s := string(c.Type) + "\t" + mnt + c.Path
		if c.To != "" {
			s += "\t" + mnt + c.To
		}
		got = append(got, strings.TrimSuffix(s, "/"))
	}
	var want []string
	commands := oracle(t)
	diff := ""
	if commands {
		diff = tool(t, "zfs", "diff", "-H", p+"@1", p+"@2")
	}
	for _, l := range lines(diff) {
		l = strings.ReplaceAll(l, `\0040`, " ")
		f := strings.Split(l, "\t")
		if len(f) > 2 && strings.HasPrefix(f[2], "(") { // the count of links
			l = strings.Join(f[:2], "\t")
		}
		want = append(want, strings.TrimSuffix(l, "/"))
	}
	slices.Sort(got)
	slices.Sort(want)
	if commands && !slices.Equal(got, want) || len(got) < 6 {
		t.Errorf("ours:\n%s\nzfs diff:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for range h.Diff(ctx, p+"@1", p+"@2") {
		break
	}
	for _, err := range h.Diff(ctx, p+"@2", p+"@1") {
		if err == nil {
			t.Error("a diff backwards")
		}
	}
	// Who uses what.
	must(os.Chown(mnt+"/changed", 1234, 1234), h.Sync(ctx, p))
	if err := h.SetQuota(ctx, p, UserQuota, 1234, 7*mib); err != nil {
		t.Fatal(err)
	}
	for what, opt := range map[Account]string{UserUsed: "used", UserQuota: "quota"} {
		ours := map[uint32]uint64{}
		for a, err := range h.Userspace(ctx, p, what) {
			must(err)
			ours[a.ID] = a.Value
		}
		users := ""
		if commands {
			users = tool(t, "zfs", "userspace", "-Hpn", "-t", "posixuser", "-o", "name,"+opt, p)
		} else if len(ours) == 0 {
			t.Error("nobody has anything")
		}
		for _, l := range lines(users) {
			f := strings.Split(l, "\t")
			var id uint32
			var v uint64
			if n, _ := fmt.Sscan(f[0], &id); n == 1 {
				_, _ = fmt.Sscan(f[1], &v)
				if ours[id] != v {
					t.Errorf("%s of %d: ours %d, zfs %s", opt, id, ours[id], f[1])
				}
			}
		}
		if what == UserQuota && ours[1234] != 7*mib {
			t.Error(ours)
		}
	}
}

func TestRealProgram(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 128*mib)
	v, err := h.Run(ctx, p, `args = ...; return {sum = args["a"] + args["b"], name = args["s"], list = {1, 2, 3}}`,
		ProgramOptions{Args: nvlist.New(nvlist.P("a", int64(2)), nvlist.P("b", int64(3)), nvlist.P("s", "x"))})
	if l := v.List(); err != nil || l.Str("name") != "x" || l.List("list").Len() != 3 {
		t.Fatal(v.Any(), err)
	}
	if n, _ := v.List().Uint("sum"); n != 5 {
		t.Error(v.List())
	}
	if v, err = h.Run(ctx, p, `args = ...; err = zfs.sync.snapshot(args["n"]); assert(err == 0); return err`,
		ProgramOptions{Sync: true, Args: nvlist.New(nvlist.P("n", p+"@prog"))}); err != nil {
		t.Fatal(v.Any(), err)
	}
	if ok, err := h.Exists(ctx, p+"@prog"); !ok {
		t.Error("the program made no snapshot", err)
	}
	for what, prog := range map[string]struct {
		text string
		o    ProgramOptions
	}{
		"error": {`error("my words")`, ProgramOptions{}}, "syntax": {`this is no lua`, ProgramOptions{}},
		"instructions": {`while true do end`, ProgramOptions{Instructions: 1000}},
		"memory":       {`t = {} for i = 1, 1000000 do t[i] = "x" .. i end`, ProgramOptions{Memory: 1 << 20}},
	} {
		if _, err := h.Run(ctx, p, prog.text, prog.o); !errors.Is(err, ErrProgram) || what == "error" && !strings.Contains(err.Error(), "my words") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A snapshot and its clone: both or neither, and in one transaction group where the module can.
func TestRealSnapshotAndClone(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 256*mib)
	if err := h.CreateVolume(ctx, p+"/v", VolumeOptions{Size: 8 * mib, Sparse: true}); err != nil {
		t.Fatal(err)
	}
	if err := h.SnapshotAndClone(ctx, p+"/v@1", p+"/c1", Props{"skep:a": "1", "skep:b": "zwei"}); err != nil {
		t.Fatal(err)
	}
	d, err := h.Get(ctx, p+"/c1")
	if err != nil || d.Kind != Volume || d.Origin != p+"/v@1" || d.Value("skep:a") != "1" || d.Value("skep:b") != "zwei" {
		t.Errorf("the clone is %v, %v", d, err)
	}
	if _, err := h.WaitVolume(ctx, p+"/c1"); err != nil {
		t.Error(err)
	}
	snap, err := h.Get(ctx, p+"/v@1")
	if err != nil {
		t.Fatal(err)
	}
	if one := snap.CreateTxg == d.CreateTxg; one != h.known().AtLeast(2, 4) {
		t.Errorf("OpenZFS %s: the snapshot in transaction group %d, the clone in %d", h.known().Text, snap.CreateTxg, d.CreateTxg)
	}
	// Many that want the same volume's snapshot at once are in each other's transaction group.
	var clones []string
	for i := range 24 {
		clones = append(clones, fmt.Sprintf("%s/many%d", p, i))
	}
	atOnce(t, clones, func(name string) error {
		return h.SnapshotAndClone(ctx, p+"/v@"+name[len(p)+1:], name, Props{"skep:a": "1"})
	})
	if err := h.SnapshotAndClone(ctx, p+"/v@2", p+"/c2", Props{"volmode": "none", "skep:a": "2"}); err != nil {
		t.Fatal(err)
	}
	if d, err := h.Get(ctx, p+"/c2", "volmode", "skep:a"); err != nil || d.Value("volmode") != "none" || d.Value("skep:a") != "2" {
		t.Errorf("the clone with a native property is %v, %v", d, err)
	}
	for what, tc := range map[string]struct {
		snap, name string
		kind       error
	}{
		"the snapshot is there": {p + "/v@1", p + "/c3", ErrExists}, "the clone is there": {p + "/v@3", p + "/c1", ErrExists},
		"no parent": {p + "/v@3", p + "/none/c", ErrNotFound}, "no volume": {p + "/none@3", p + "/c3", ErrNotFound},
	} {
		if err := h.SnapshotAndClone(ctx, tc.snap, tc.name, Props{"skep:a": "1"}); !errors.Is(err, tc.kind) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, name := range []string{p + "/v@3", p + "/c3"} {
		if there, err := h.Exists(ctx, name); there || err != nil {
			t.Errorf("%s is left, %v", name, err)
		}
	}
}
