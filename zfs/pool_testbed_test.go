// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

const mib = 1 << 20

func TestRealVersion(t *testing.T) {
	h := open(t)
	v, err := h.Version()
	if err != nil || !v.AtLeast(2, 1) {
		t.Fatal(v, err)
	}
	if oracle(t) {
		if out := tool(t, "zfs", "version"); !strings.Contains(out, v.Text) {
			t.Errorf("ours %s, zfs version %s", v.Text, out)
		}
	}
	t.Log(v.Text)
}

func TestRealPools(t *testing.T) {
	h := open(t)
	f := files(t, 24, 128*mib)
	for name, s := range map[string]PoolSpec{
		"single": {Data: []VdevSpec{Disk(f[0])}},
		"stripe": {Data: []VdevSpec{Disk(f[0]), Disk(f[1])}, Props: Props{"ashift": "12", "comment": "hello", "autotrim": "on"}},
		"mirror": {Data: []VdevSpec{Mirror(f[0], f[1]), Mirror(f[2], f[3])}, Logs: []VdevSpec{Mirror(f[4], f[5])}, Special: []VdevSpec{Mirror(f[6], f[7])},
			Dedup: []VdevSpec{Mirror(f[10], f[11])}, Cache: []string{f[8]}, Spares: []string{f[9]}},
		"raidz": {Data: []VdevSpec{RAIDZ(1, f[0:3]...), RAIDZ(1, f[3:6]...)}},
		"z2":    {Data: []VdevSpec{RAIDZ(2, f[0:5]...)}, RootProps: Props{"compression": "zstd", "atime": "off"}},
		"draid": {Data: []VdevSpec{DRAID(1, 3, 1, f[0:7]...)}},
		"plain": {Data: []VdevSpec{Disk(f[0])}, NoFeatures: true, Features: []string{"async_destroy", "lz4_compress"}},
	} {
		t.Run(name, func(t *testing.T) {
			s.Force = true // the one before it was destroyed, its labels say exported at worst
			pool := testPool(t, h, 0, func(p *PoolSpec) {
				n, mnt := p.Name, p.RootProps["mountpoint"]
				*p = s
				p.Name = n
				rp := Props{"mountpoint": mnt}
				for k, v := range s.RootProps {
					rp[k] = v
				}
				p.RootProps = rp
			})
			comparePool(t, h, pool)
			compareDatasets(t, h, pool)
			names, err := h.Pools(t.Context())
			if err != nil || !slices.Contains(names, pool) {
				t.Error(names, err)
			}
			for p, want := range s.Props {
				props, err := h.PoolProperties(t.Context(), pool)
				if err != nil || props[p].Value != want {
					t.Errorf("%s is %s, want %s: %v", p, props[p].Value, want, err)
				}
			}
		})
	}
	bad := PoolSpec{Name: "bad", Data: []VdevSpec{Disk(f[0])}}
	for what, change := range map[string]func(*PoolSpec){
		"no devices":      func(s *PoolSpec) { s.Data = nil },
		"twice":           func(s *PoolSpec) { s.Data = []VdevSpec{Mirror(f[0], f[0])} },
		"mirror of one":   func(s *PoolSpec) { s.Data = []VdevSpec{Mirror(f[0])} },
		"no such file":    func(s *PoolSpec) { s.Data = []VdevSpec{Disk("/none")} },
		"a directory":     func(s *PoolSpec) { s.Data = []VdevSpec{Disk("/var/tmp")} },
		"relative":        func(s *PoolSpec) { s.Data = []VdevSpec{Disk("vdev0")} },
		"property":        func(s *PoolSpec) { s.Props = Props{"nonsense": "1"} },
		"root property":   func(s *PoolSpec) { s.RootProps = Props{"used": "1"} },
		"unknown feature": func(s *PoolSpec) { s.Props = Props{"feature@nonsense": "enabled"} },
	} {
		s := bad
		change(&s)
		if err := h.CreatePool(t.Context(), s); err == nil {
			t.Errorf("%s: a pool was made", what)
			destroyTestPool(t, h, "bad")
		}
	}
	if _, err := h.Pool(t.Context(), "bad"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestRealDevices(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	f := files(t, 6, 512*mib) // a removal wants room to copy to
	p := testPool(t, h, 0, func(s *PoolSpec) { s.Data = []VdevSpec{Disk(f[0])} })
	settle := func() {
		t.Helper()
		wctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := h.WaitPool(wctx, p, Scanned|Trimmed|Initialized|Removed|Freed, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
		comparePool(t, h, p)
	}
	// did is what a trim or an initialization came to.
	did := func(word, flag string, progress func(*Vdev) Progress) {
		t.Helper()
		st, err := h.Pool(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for v := range st.Root.All() {
			if v.Type != "file" {
				continue
			}
			n++
			const complete = 4
			pr := progress(v)
			if pr.State != complete || pr.Done == 0 || pr.Total == 0 {
				t.Errorf("%s of %s: %+v", word, v.Path, pr)
			}
			want := fmt.Sprintf("(100%% %s, completed at ", word)
			if oracle(t) {
				if out := tool(t, "zpool", "status", flag, p); !strings.Contains(out, want) {
					t.Errorf("%s, zpool: %s", want, out)
				}
			}
		}
		if n == 0 {
			t.Error("no device was looked at")
		}
	}
	noTrim := false
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"attach", func() error { return h.Attach(ctx, p, f[0], f[1]) }},
		{"offline", func() error { return h.Offline(ctx, p, f[1], false) }},
		{"online", func() error { return h.Online(ctx, p, f[1], false) }},
		{"replace", func() error { return h.Replace(ctx, p, f[1], f[2]) }},
		{"detach", func() error { return h.Detach(ctx, p, f[0]) }},
		{"add", func() error {
			return h.AddVdevs(ctx, p, PoolSpec{Data: []VdevSpec{Disk(f[3])}, Logs: []VdevSpec{Disk(f[4])}, Spares: []string{f[5]}})
		}},
		{"remove a log", func() error { return h.RemoveVdev(ctx, p, f[4]) }},
		{"remove a spare", func() error { return h.RemoveVdev(ctx, p, f[5]) }},
		{"remove data", func() error { return h.RemoveVdev(ctx, p, f[3]) }},
		{"scrub", func() error { return h.ScrubPool(ctx, p, Start) }},
		{"trim", func() error {
			err := h.TrimPool(ctx, p, Start)
			if noTrim = errors.Is(err, errVdevNotsup); noTrim && runtime.GOOS != "linux" { // the file system below may not
				return nil
			}
			return err
		}},
		{"initialize", func() error { return h.InitializePool(ctx, p, Start, f[2]) }},
		{"clear", func() error { return h.Clear(ctx, p, "") }},
		{"checkpoint", func() error { return h.Checkpoint(ctx, p) }},
		{"discard", func() error { return h.DiscardCheckpoint(ctx, p) }},
		{"properties", func() error {
			return h.SetPool(ctx, p, Props{"comment": "x y", "failmode": "continue", "autoexpand": "on"})
		}},
		{"reguid", func() error { return h.Reguid(ctx, p) }},
	} {
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.what, err)
		}
		t.Log(step.what)
		settle()
		switch step.what {
		case "trim":
			if !noTrim {
				did("trimmed", "-t", func(v *Vdev) Progress { return v.Trim })
			}
		case "initialize":
			did("initialized", "-i", func(v *Vdev) Progress { return v.Initialize })
		}
	}
	if err := h.Detach(ctx, p, f[2]); err == nil {
		t.Error("the last device was detached")
	}
	if err := h.Offline(ctx, p, "/none", false); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := h.Attach(ctx, p, f[2], f[2]); err == nil {
		t.Error("attached to itself")
	}
}

func TestRealImport(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	f := files(t, 6, 128*mib)
	dir := filepath.Dir(f[0])
	p := testPool(t, h, 0, func(s *PoolSpec) {
		s.Data = []VdevSpec{RAIDZ(1, f[0:3]...), Mirror(f[3], f[4])}
		s.Spares = []string{f[5]}
	})
	if err := h.CreateFilesystem(ctx, p+"/a", Props{"skep:x": "1"}); err != nil {
		t.Fatal(err)
	}
	if err := h.MountAll(ctx, p); err != nil {
		t.Fatal(err)
	}
	if where, err := h.Mounted(p + "/a"); err != nil || len(where) != 1 || where[0] != "/var/tmp/mnt-"+p+"/a" {
		t.Error(where, err)
	}
	if err := os.WriteFile("/var/tmp/mnt-"+p+"/a/file", []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := h.Pool(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	err = h.CreatePool(ctx, PoolSpec{Name: "thief", Data: []VdevSpec{Disk(f[0])}})
	if !errors.Is(err, ErrBusy) {
		t.Errorf("a device in use was taken: %v", err)
	}
	if err := h.ExportPool(ctx, p, false); err != nil {
		t.Fatal(err)
	}
	if err = h.CreatePool(ctx, PoolSpec{Name: "thief", Data: []VdevSpec{Disk(f[0])}}); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), p) {
		t.Errorf("an exported device was taken: %v", err)
	}
	// Moved elsewhere: labels, not paths, tell the devices.
	moved := dir + "/moved"
	if err := os.Mkdir(moved, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, v := range f {
		if err := os.Rename(v, filepath.Join(moved, "x"+filepath.Base(v))); err != nil {
			t.Fatal(err)
		}
	}
	found, err := h.FindPools(ctx, FindOptions{Paths: []string{moved}})
	if err != nil || len(found) != 1 || found[0].Name != p || found[0].GUID != before.GUID || found[0].Health != "ONLINE" {
		t.Fatal(found, err)
	}
	commands := oracle(t)
	if commands {
		if out := tool(t, "zpool", "import", "-d", moved); !strings.Contains(out, p) || !strings.Contains(out, fmt.Sprint(found[0].GUID)) {
			t.Error(out)
		}
	}
	// By a handle that has no large buffer from the search left.
	if err := open(t).Import(ctx, found[0], ImportOptions{Name: p + "n", Props: Props{"altroot": "/var/tmp/alt", "cachefile": "none"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { destroyTestPool(t, h, p+"n"); _ = os.RemoveAll("/var/tmp/alt") })
	comparePool(t, h, p+"n")
	if st, err := h.Pool(ctx, p+"n"); err != nil || len(st.Spares) != 1 || st.Spares[0].Path != moved+"/xvdev5" || st.Spares[0].State != VdevOnline {
		t.Error("the spare did not move along", err)
	}
	if err := h.MountAll(ctx, p+"n"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile("/var/tmp/alt/var/tmp/mnt-" + p + "/a/file"); err != nil || string(b) != "data" {
		t.Error(string(b), err)
	}
	if err := h.ExportPool(ctx, p+"n", false); err != nil {
		t.Fatal(err)
	}
	// One device of the raidz missing: it is degraded and can be had.
	if err := os.Rename(moved+"/xvdev1", dir+"/away"); err != nil {
		t.Fatal(err)
	}
	if found, err = h.FindPools(ctx, FindOptions{Paths: []string{moved}}); err != nil || len(found) != 1 || found[0].Health != "DEGRADED" {
		t.Fatal(found, err)
	}
	// Two missing: it cannot.
	if err := os.Rename(moved+"/xvdev2", dir+"/away2"); err != nil {
		t.Fatal(err)
	}
	if found, err = h.FindPools(ctx, FindOptions{Paths: []string{moved}}); err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if err := h.Import(ctx, found[0], ImportOptions{}); err == nil {
		t.Error("a pool without its devices was imported")
	}
	for _, n := range []string{"away", "away2"} {
		if err := os.Rename(dir+"/"+n, moved+"/"+n); err != nil {
			t.Fatal(err)
		}
	}
	// Back by way of the command, and ours sees the same.
	if commands {
		tool(t, "zpool", "import", "-N", "-d", moved, p+"n")
	} else if found, err := h.FindPools(ctx, FindOptions{Paths: []string{moved}}); err != nil || len(found) != 1 {
		t.Fatal(found, err)
	} else if err := h.Import(ctx, found[0], ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	comparePool(t, h, p+"n")
	cache := dir + "/cache"
	if err := h.SetPool(ctx, p+"n", Props{"cachefile": cache}); err != nil {
		t.Fatal(err)
	}
	keep, err := os.ReadFile(cache)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := h.ReadCacheFile(ctx, cache); err != nil || len(c) != 0 {
		t.Error("an imported pool is offered", c, err)
	}
	if err := h.ExportPool(ctx, p+"n", false); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cache, keep, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := h.ReadCacheFile(ctx, cache)
	if err != nil || len(c) != 1 {
		t.Fatal(c, err)
	}
	if err := h.Import(ctx, c[0], ImportOptions{Props: Props{"readonly": "on", "cachefile": "none"}}); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateFilesystem(ctx, p+"n/b", nil); !errors.Is(err, ErrReadOnly) {
		t.Error(err)
	}
}

// What it takes to import a pool that was destroyed, or whose log is gone; and to take all of a device that has grown.
func TestRealImportAgain(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	f := files(t, 2, 128*mib)
	p := testPool(t, h, 0, func(s *PoolSpec) { s.Data, s.Logs = []VdevSpec{Disk(f[0])}, []VdevSpec{Disk(f[1])} })
	find := func(o FindOptions, n int) *Candidate {
		t.Helper()
		o.Paths = f
		found, err := h.FindPools(ctx, o)
		if err != nil || len(found) != n {
			t.Fatal(found, err)
		}
		if n == 0 {
			return nil
		}
		return found[0]
	}
	if err := errors.Join(h.CreateFilesystem(ctx, p+"/a", nil), h.DestroyPool(ctx, p)); err != nil {
		t.Fatal(err)
	}
	find(FindOptions{}, 0)
	c := find(FindOptions{Destroyed: true}, 1)
	if c.Name != p || c.State != LabelDestroyed {
		t.Errorf("%s is %s", c.Name, c.State)
	}
	none := Props{"cachefile": "none"}
	if err := h.Import(ctx, c, ImportOptions{Props: none}); err != nil {
		t.Fatal(err)
	}
	if ok, err := h.Exists(ctx, p+"/a"); !ok || err != nil {
		t.Error("what was destroyed and is back lacks a dataset", err)
	}
	comparePool(t, h, p)

	if err := errors.Join(h.ExportPool(ctx, p, false), os.Rename(f[1], f[1]+".away")); err != nil {
		t.Fatal(err)
	}
	c = find(FindOptions{}, 1)
	wantKind(t, "without its log", p, h.Import(ctx, c, ImportOptions{Props: none}), ErrUnavailable)
	if err := h.Import(ctx, c, ImportOptions{MissedLog: true, Props: none}); err != nil {
		t.Fatal(err)
	}
	if st, err := h.Pool(ctx, p); err != nil || st.Health != "DEGRADED" {
		t.Error(st.Health, err)
	}
	comparePool(t, h, p)
	if err := h.CreateFilesystem(ctx, p+"/b", nil); err != nil {
		t.Error(err)
	}

	size := func() uint64 {
		t.Helper()
		props, err := h.PoolProperties(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		return props["size"].Number
	}
	was := size()
	if err := errors.Join(os.Truncate(f[0], 512*mib), h.Online(ctx, p, f[0], false)); err != nil {
		t.Fatal(err)
	}
	if n := size(); n != was {
		t.Errorf("it grew unasked from %d to %d", was, n)
	}
	if err := h.Online(ctx, p, f[0], true); err != nil {
		t.Fatal(err)
	}
	// The kernel opens the device anew by itself, after it has answered.
	n := size()
	for end := time.Now().Add(30 * time.Second); n < 450*mib && time.Now().Before(end); n = size() {
		time.Sleep(100 * time.Millisecond)
	}
	if n < 450*mib {
		t.Errorf("it did not grow: %d after %d", n, was)
	}
	comparePool(t, h, p)
}

func TestRealHistoryAndEvents(t *testing.T) {
	h := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	events, err := h.Events(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	p := testPool(t, h, 128*mib)
	if err := h.CreateFilesystem(ctx, p+"/a", nil); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateSnapshots(ctx, []string{p + "/a@x"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.Logged(ctx, "skep snapshot", func() error { return h.CreateSnapshots(ctx, []string{p + "/a@y"}, nil) }); err != nil {
		t.Fatal(err)
	}
	if err := h.Sync(ctx, p); err != nil {
		t.Fatal(err)
	}
	hist, err := h.PoolHistory(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	var ioctls, commands []string
	for _, r := range hist {
		if r.Ioctl != "" {
			ioctls = append(ioctls, r.Ioctl)
		}
		if r.Command != "" {
			commands = append(commands, r.Command)
		}
	}
	if !slices.Contains(ioctls, "create") || !slices.Contains(ioctls, "snapshot") || !slices.Contains(commands, "skep snapshot") {
		t.Error(ioctls, commands)
	}
	if oracle(t) {
		tool(t, "zfs", "set", "atime=off", p+"/a") // one that a command put down
	}
	compareHistory(t, h, p)
	created, snap := false, false
	for e := range events {
		if e.Err != nil {
			t.Fatal(e.Err)
		}
		if e.Pool != p {
			continue
		}
		created = created || e.Class == "sysevent.fs.zfs.pool_create"
		snap = snap || e.Class == "sysevent.fs.zfs.history_event" && e.Details.Str("history_internal_name") == "snapshot"
		if e.Time.Before(time.Now().Add(-time.Hour)) {
			t.Error(e)
		}
		if created && snap {
			cancel()
			break
		}
	}
	for range events { // until the reader ends
	}
	if !created || !snap {
		t.Error("events are missing", created, snap)
	}
}

// A pool's history is a ring behind the record of its creation: the oldest records
// give way, that one does not, whoever writes the next.
func TestRealHistoryWraps(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	f := files(t, 2, 64*mib)
	p := testPool(t, h, 0, func(s *PoolSpec) { s.Data = []VdevSpec{Mirror(f...)} })
	long := strings.Repeat("x", 8000)
	for i := range 60 { // 128 KiB is what it has room for
		if err := h.Set(ctx, p, Props{"t:long": long, "t:i": fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	compareHistory(t, h, p)
	change := func() error { return h.Set(ctx, p, Props{"t:i": "logged"}) }
	if err := h.Logged(ctx, "a command", change); err != nil {
		t.Fatal(err)
	}
	if oracle(t) {
		tool(t, "zfs", "set", "atime=off", p)
	}
	compareHistory(t, h, p)
	all, err := h.PoolHistory(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) > 110 || !slices.ContainsFunc(all, func(r HistoryRecord) bool { return r.Command == "skep: create pool "+p+" mirror "+f[0]+" "+f[1] }) {
		t.Errorf("%d records, the first is %v", len(all), all[0].Record)
	}
}
