// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// The tests of the real kernel: everything here runs as root in a disposable
// host that has the module and, as oracles, the zfs and zpool commands. A
// FreeBSD host that is a kernel and nothing else has none: there the tests do
// the same, and what ours answers is held against what they know by themselves.

// oracle says whether the commands are there to compare with.
func oracle(t testing.TB) bool {
	t.Helper()
	_, err := exec.LookPath("zfs")
	if err != nil && runtime.GOOS == "linux" {
		t.Fatal(err)
	}
	if err != nil {
		t.Log("NOT COMPARED: this host has no zfs command")
	}
	return err == nil
}

func open(t testing.TB) *Handle {
	t.Helper()
	h, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// tool runs zfs or zpool and gives what it prints.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := toolErr(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func toolErr(name string, args ...string) (string, error) {
	c := exec.Command(name, args...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSuffix(stdout.String(), "\n"), nil
}

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// files makes sparse files for devices.
func files(t testing.TB, n int, size int64) []string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "zfstest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var out []string
	for i := range n {
		p := filepath.Join(dir, fmt.Sprintf("vdev%d", i))
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(p, size); err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

var poolCount atomic.Int32

// testPool makes a pool of one file by our own means and destroys it after the test.
func testPool(t testing.TB, h *Handle, size int64, change ...func(*PoolSpec)) string {
	t.Helper()
	name := fmt.Sprintf("t%dx%d", os.Getpid(), poolCount.Add(1)) // a run that was killed may have left some
	s := PoolSpec{Name: name, RootProps: Props{"mountpoint": "/var/tmp/mnt-" + name}, Props: Props{"cachefile": "none"}}
	for _, c := range change {
		c(&s)
	}
	if len(s.Data) == 0 {
		s.Data = []VdevSpec{Disk(files(t, 1, size)[0])}
	}
	if err := h.CreatePool(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { destroyTestPool(t, h, name) })
	return name
}

func destroyTestPool(t testing.TB, h *Handle, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i := 0; ; i++ {
		err := h.DestroyPool(ctx, name)
		if err == nil || isKind(err, ErrNotFound) {
			break
		}
		if i == 50 {
			t.Errorf("destroying %s: %v", name, err)
			break
		}
		time.Sleep(100 * time.Millisecond) // zvols are let go a little later
	}
	_ = os.RemoveAll("/var/tmp/mnt-" + name)
}

// poolProps whose values move between two looks.
var unsteady = map[string]bool{"free": true, "allocated": true, "freeing": true, "fragmentation": true, "capacity": true, "load_guid": true,
	"used": true, "available": true, "usable": true, "last_scrubbed_txg": true}

func comparePool(t *testing.T, h *Handle, name string) {
	t.Helper()
	ctx := t.Context()
	if err := h.Sync(ctx, name); err != nil {
		t.Fatal(err)
	}
	ours, err := h.PoolProperties(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := h.Pool(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if !oracle(t) {
		if len(ours) < 20 || p.Name != name || p.Root == nil || p.Health == "" {
			t.Errorf("pool %s: %d properties, %+v", name, len(ours), p)
		}
		return
	}
	compared := 0
	for _, l := range lines(tool(t, "zpool", "get", "-Hp", "-o", "property,value,source", "all", name)) {
		f := strings.Split(l, "\t")
		if len(f) != 3 {
			t.Fatalf("zpool get: %q", l)
		}
		if feature, ok := strings.CutPrefix(f[0], "feature@"); ok {
			if feature == "zpool_checkpoint" { // its end is later than the discarding
				continue
			}
			active, enabled := p.Features[feature]
			want := map[string]bool{"active": enabled && active, "enabled": enabled && !active, "disabled": !enabled}
			if !want[f[1]] {
				t.Errorf("%s is %s, ours: enabled %v active %v", f[0], f[1], enabled, active)
			}
			compared++
			continue
		}
		o, ok := ours[f[0]]
		delete(ours, f[0])
		if !ok {
			t.Errorf("%s of %s: ours none, zpool %q", f[0], name, f[1:])
			continue
		}
		compared++
		if o.Value != f[1] && !(o.Value == "" && f[1] == "-") && !unsteady[f[0]] || o.Source.String() != f[2] {
			t.Errorf("%s of %s: ours %q (%s), zpool %q", f[0], name, o.Value, o.Source, f[1:])
		}
	}
	for _, hidden := range []string{"name", "maxblocksize", "maxdnodesize"} { // zpool get does not show them
		delete(ours, hidden)
	}
	if compared < 30 || len(ours) > 0 {
		t.Errorf("only %d properties compared; zpool does not have %v", compared, ours)
	}
	if got := tool(t, "zpool", "list", "-H", "-o", "health", name); got != p.Health {
		t.Errorf("health %s, zpool %s", p.Health, got)
	}
	compareVdevs(t, p)
	if !p.Scan.Active() { // or it moves on between the two
		compareScan(t, p)
	}
}

// compareScan holds the last scrub or resilver against zpool status; one that goes on must stand still meanwhile.
func compareScan(t *testing.T, p *Pool) {
	t.Helper()
	if !oracle(t) {
		return
	}
	out := tool(t, "zpool", "status", p.Name)
	s := p.Scan
	if s == nil {
		if _, scan, ok := strings.Cut(out, "scan: "); ok && !strings.HasPrefix(scan, "none requested") {
			t.Errorf("no scan of %s, zpool: %s", p.Name, out)
		}
		return
	}
	word, done := "scrub", "scrub repaired"
	if s.Func == Resilver {
		word, done = "resilver", "resilvered"
	}
	took := int(s.End.Sub(s.Start).Seconds())
	var want []string
	switch {
	case s.State == ScanFinished:
		want = []string{fmt.Sprintf("%s %s in %02d:%02d:%02d with %d errors on %s", done, niceBytes(s.Processed), took/3600, took/60%60, took%60, s.Errors,
			s.End.Format(time.ANSIC))}
	case s.State == ScanCanceled:
		want = []string{word + " canceled on " + s.End.Format(time.ANSIC)}
	case s.Paused:
		want = []string{word + " paused since ", word + " started on " + s.Start.Format(time.ANSIC)}
	default:
		want = []string{word + " in progress since " + s.Start.Format(time.ANSIC)}
	}
	if s.Active() {
		// "N scanned …, N issued …, N total" up to 2.1, "N / N scanned …, N / N issued" later.
		m := scanRule.FindStringSubmatch(out)
		if m == nil || m[1] != niceBytes(s.Examined) || m[2] != niceBytes(s.Issued) || !strings.Contains(out, niceBytes(s.ToExamine)) {
			t.Errorf("scan of %s: %s scanned, %s issued of %s, zpool: %s", p.Name, niceBytes(s.Examined), niceBytes(s.Issued), niceBytes(s.ToExamine), out)
		}
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("scan of %s: %q, zpool: %s", p.Name, w, out)
		}
	}
}

var scanRule = regexp.MustCompile(`\t(\S+)(?: / \S+)? scanned.*, (\S+)(?: / \S+)? issued`)

// niceBytes is zfs_nicebytes: up to five characters.
func niceBytes(n uint64) string {
	unit, at := uint64(1), 0
	for n/unit >= 1024 {
		unit, at = unit*1024, at+1
	}
	const units = "BKMGTPE"
	if n%unit == 0 {
		return fmt.Sprint(n/unit) + units[at:at+1]
	}
	s := ""
	for digits := 2; digits >= 0; digits-- {
		if s = fmt.Sprintf("%.*f%c", digits, float64(n)/float64(unit), units[at]); len(s) <= 5 {
			break
		}
	}
	return s
}

// compareVdevs holds the tree against zpool status: name, state and error counters of every device, in order.
func compareVdevs(t *testing.T, p *Pool) {
	t.Helper()
	if !oracle(t) {
		return
	}
	var want, got []string
	section := ""
	for _, l := range lines(tool(t, "zpool", "status", "-pP", p.Name)) {
		if !strings.HasPrefix(l, "\t") {
			continue
		}
		f := strings.Fields(l)
		switch {
		case len(f) == 0:
		case f[0] == "NAME":
			want = nil // what came before was prose
		case len(f) == 1:
			section = f[0]
		case len(f) >= 5:
			want = append(want, fmt.Sprint(f[:5]))
		case len(f) == 2 && section == "spares":
			want = append(want, fmt.Sprint(f))
		}
	}
	line := func(name string, v *Vdev) {
		got = append(got, fmt.Sprint([]string{name, v.health(), fmt.Sprint(v.ReadErrors), fmt.Sprint(v.WriteErrors), fmt.Sprint(v.ChecksumErrors)}))
	}
	line(p.Name, p.Root)
	for _, class := range []string{"", "dedup", "special", "log"} {
		for _, top := range p.Root.Children {
			if top.Class != class || top.Type == "hole" || top.Type == "indirect" {
				continue
			}
			for v := range top.All() {
				line(v.Name(), v)
			}
		}
	}
	for _, v := range p.Cache {
		line(v.Name(), v)
	}
	for _, v := range p.Spares {
		if v.State == VdevOnline {
			got = append(got, fmt.Sprint([]string{v.Name(), "AVAIL"}))
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("devices of %s:\nours  %s\nzpool %s", p.Name, strings.Join(got, "\n      "), strings.Join(want, "\n      "))
	}
}

// compareDatasets holds all that we tell of a pool's datasets against zfs list and zfs get.
func compareDatasets(t *testing.T, h *Handle, root string) {
	t.Helper()
	ctx := t.Context()
	if err := h.Sync(ctx, pool(root)); err != nil {
		t.Fatal(err)
	}
	ours := map[string]*Dataset{}
	for d, err := range h.Descend(ctx, root, Filesystems, Volumes, Snapshots, Bookmarks, With()) {
		if err != nil {
			t.Fatal(err)
		}
		ours[d.Name] = d
	}
	if !oracle(t) {
		for _, d := range ours {
			n := 0
			for range d.Properties() {
				n++
			}
			if n < 4 || d.GUID == 0 || d.CreateTxg == 0 {
				t.Errorf("%d properties of %+v", n, d)
			}
		}
		return
	}
	seen := 0
	for _, l := range lines(tool(t, "zfs", "list", "-Hp", "-t", "filesystem,volume,snapshot,bookmark", "-r", "-o", "name,type,guid,createtxg,origin", root)) {
		f := strings.Split(l, "\t")
		d := ours[f[0]]
		if d == nil {
			t.Errorf("zfs list has %s, we do not", f[0])
			continue
		}
		seen++
		if got := fmt.Sprintf("%s\t%s\t%d\t%d\t%s", d.Name, d.Kind, d.GUID, d.CreateTxg, map[bool]string{true: "-", false: d.Origin}[d.Origin == ""]); got != l {
			t.Errorf("ours %s, zfs list %s", got, l)
		}
	}
	if seen != len(ours) {
		t.Errorf("we list %d, zfs %d", len(ours), seen)
	}
	theirs := map[string]map[string]string{}
	for _, l := range lines(tool(t, "zfs", "get", "-Hp", "-r", "-t", "filesystem,volume,snapshot,bookmark", "-o", "name,property,value,source", "all", root)) {
		f := strings.SplitN(l, "\t", 3)
		if len(f) != 3 {
			t.Fatalf("zfs get: %q", l)
		}
		if theirs[f[0]] == nil {
			theirs[f[0]] = map[string]string{}
		}
		theirs[f[0]][f[1]] = strings.Replace(f[2], "18446744073709551615", "none", 1) // how 2.1 spells no limit
	}
	for _, d := range ours {
		compareProperties(t, d, theirs[d.Name])
	}
}

// compareProperties holds all that we tell of a dataset against all that zfs
// get does: the same properties, their values and where they are from.
func compareProperties(t *testing.T, d *Dataset, theirs map[string]string) {
	t.Helper()
	compared := 0
	for p := range d.Properties() {
		src := p.Source.String()
		if p.Source == SourceInherited {
			src = "inherited from " + p.From
		}
		want, ok := theirs[p.Name]
		if !ok {
			t.Errorf("%s of %s: ours %q (%s), zfs none", p.Name, d.Name, p.Value, src)
			continue
		}
		compared++
		if got := p.Value + "\t" + src; got != want {
			t.Errorf("%s of %s: ours %q, zfs %q", p.Name, d.Name, got, want)
		}
	}
	for name, value := range theirs {
		if _, ok := d.Property(name); !ok {
			t.Errorf("%s of %s: ours none, zfs %q", name, d.Name, value)
		}
	}
	if compared < 4 || compared < 15 && d.Kind != Bookmark {
		t.Errorf("only %d properties of %s compared", compared, d.Name)
	}
}

// compareHistory holds the history of a pool against zpool history, record by record.
func compareHistory(t *testing.T, h *Handle, name string) {
	t.Helper()
	if err := h.Sync(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for range 5 { // what goes on by itself may be put down between the two
		all, err := h.PoolHistory(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		got, want = nil, nil
		for _, r := range all {
			got = append(got, historyLine(r))
		}
		if !oracle(t) {
			if len(got) < 3 {
				t.Errorf("history of %s: %q", name, got)
			}
			return
		}
		for _, l := range lines(tool(t, "zpool", "history", "-i", name)) {
			if m := historyRule.FindStringSubmatch(l); m != nil { // the others are the lists of the record above
				want = append(want, strings.TrimRight(m[1]+" "+m[2], " "))
			}
		}
		if len(got) == len(want) {
			break
		}
	}
	for i := range max(len(got), len(want)) {
		ours, theirs := "", ""
		if i < len(got) {
			ours = got[i]
		}
		if i < len(want) {
			theirs = want[i]
		}
		if ours != theirs {
			t.Errorf("history of %s, record %d of %d and %d:\nours  %s\nzpool %s", name, i, len(got), len(want), ours, theirs)
			return
		}
	}
	if len(got) < 3 {
		t.Errorf("only %d records compared", len(got))
	}
}

var historyRule = regexp.MustCompile(`^(\d{4}-\d\d-\d\d\.\d\d:\d\d:\d\d)(?: \(\d+ms\))? (.*)$`)

// historyLine is a record as zpool history -i prints it.
func historyLine(r HistoryRecord) string {
	l := r.Time.Format("2006-01-02.15:04:05") + " "
	switch what := r.Record.Str("internal_name"); {
	case r.Command != "":
		l += r.Command
	case what != "":
		txg, _ := r.Record.Uint("history txg")
		l += fmt.Sprintf("[txg:%d] %s", txg, what)
		if ds := r.Record.Str("dsname"); ds != "" {
			id, _ := r.Record.Uint("dsid")
			l += fmt.Sprintf(" %s (%d)", ds, id)
		}
		l += " " + r.Record.Str("history internal str")
	default:
		l += "ioctl " + r.Ioctl
	}
	return strings.TrimRight(l, " ")
}

// compareOnDisk holds the file systems, volumes and snapshots of a pool against
// what zdb reads from its devices; its cache file tells zdb of them.
func compareOnDisk(t *testing.T, h *Handle, name, cache string) {
	t.Helper()
	if err := h.Sync(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for d, err := range h.Descend(t.Context(), name, Filesystems, Volumes, Snapshots, With("objsetid")) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s [%s], ID %s, cr_txg %d", d.Name, map[bool]string{true: "ZVOL", false: "ZPL"}[d.head == Volume], d.Value("objsetid"), d.CreateTxg))
	}
	if !oracle(t) {
		return
	}
	for _, l := range lines(tool(t, "zdb", "-U", cache, "-d", name)) {
		if m := zdbRule.FindStringSubmatch(l); m != nil {
			want = append(want, m[1])
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("on the devices of %s:\nours %s\nzdb  %s", name, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

var zdbRule = regexp.MustCompile(`^Dataset (\S+ \[(?:ZPL|ZVOL)\], ID \d+, cr_txg \d+), .* objects`)
