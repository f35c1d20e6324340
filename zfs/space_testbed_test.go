// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// What was written since and what would be freed are what the commands say.
func TestRealSpace(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 128*mib)
	fs, mnt := p+"/a", "/var/tmp/mnt-"+p+"/a"
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(h.CreateFilesystem(ctx, fs, nil), h.MountAll(ctx, p))
	for i, snap := range []string{"a", "b", "c"} {
		if i > 0 {
			must(os.Remove(filepath.Join(mnt, fmt.Sprint(i-1))))
		}
		must(os.WriteFile(filepath.Join(mnt, fmt.Sprint(i)), randomBytes((i+1)*mib), 0o600), h.CreateSnapshots(ctx, []string{fs + "@" + snap}, nil))
	}
	must(os.Remove(filepath.Join(mnt, "2")), os.WriteFile(filepath.Join(mnt, "now"), randomBytes(5*mib), 0o600),
		h.CreateBookmarks(ctx, map[string]string{fs + "#b": fs + "@b"}), h.Sync(ctx, p))
	commands := oracle(t)
	about := func(what string, got, want uint64) { // in MiB, with the metadata
		t.Helper()
		if got < want*mib || got > want*mib+mib/2 {
			t.Errorf("%s: %d bytes, want %d MiB", what, got, want)
		}
	}
	for _, w := range []struct {
		name, since string
		mib         uint64
	}{{fs, "@a", 5}, {fs, "@c", 5}, {fs, "#b", 5}, {fs + "@b", "@a", 2}, {fs + "@c", "@a", 3}} {
		s, err := h.Written(ctx, w.name, fs+w.since)
		must(err)
		about(w.name+" since "+w.since, s.Used, w.mib)
		about(w.name+" since "+w.since+", uncompressed", s.Uncompressed, w.mib)
		if commands {
			if want := tool(t, "zfs", "get", "-Hp", "-o", "value", "written"+w.since, w.name); want != fmt.Sprint(s.Used) {
				t.Errorf("%s wrote %d since %s, zfs %s", w.name, s.Used, w.since, want)
			}
		}
	}
	for _, r := range []struct {
		first, last string
		mib         uint64
	}{{"a", "a", 1}, {"a", "b", 3}, {"a", "c", 6}, {"b", "c", 5}} {
		s, err := h.Reclaimed(ctx, fs+"@"+r.first, fs+"@"+r.last)
		must(err)
		about("reclaimed by "+r.first+" to "+r.last, s.Used, r.mib)
		if commands {
			out := tool(t, "zfs", "destroy", "-nvp", fs+"@"+r.first+"%"+r.last)
			if want := fmt.Sprintf("reclaim\t%d", s.Used); !strings.HasSuffix(out, want) {
				t.Errorf("ours %s, zfs destroy -nvp: %s", want, out)
			}
		}
	}
}

// accounts are all kinds of them, with the command and the column that show them.
var accounts = map[Account][2]string{
	UserUsed: {"userspace", "used"}, UserQuota: {"userspace", "quota"}, UserObjectsUsed: {"userspace", "objused"}, UserObjectsQuota: {"userspace", "objquota"},
	GroupUsed: {"groupspace", "used"}, GroupQuota: {"groupspace", "quota"}, GroupObjectsUsed: {"groupspace", "objused"}, GroupObjectsQuota: {"groupspace", "objquota"},
	ProjectUsed: {"projectspace", "used"}, ProjectQuota: {"projectspace", "quota"}, ProjectObjectsUsed: {"projectspace", "objused"},
	ProjectObjectsQuota: {"projectspace", "objquota"},
}

func TestRealUserspace(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 128*mib)
	file := "/var/tmp/mnt-" + p + "/file"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(h.MountAll(ctx, p))
	must(os.WriteFile(file, randomBytes(mib), 0o600))
	must(os.Chown(file, 1234, 2345))
	commands := oracle(t)
	projects := commands && runtime.GOOS == "linux" // FreeBSD has none to give
	if projects {
		tool(t, "zfs", "project", "-p", "77", file)
	}
	const objects = 100
	quotas := map[Account]map[uint32]uint64{
		UserQuota: {1234: 7 * mib, 0: 90 * mib}, GroupQuota: {2345: 9 * mib}, UserObjectsQuota: {1234: objects}, GroupObjectsQuota: {2345: 2 * objects},
	}
	if projects {
		quotas[ProjectQuota], quotas[ProjectObjectsQuota] = map[uint32]uint64{77: 11 * mib}, map[uint32]uint64{77: 3 * objects}
	}
	for what, of := range quotas {
		for id, n := range of {
			must(h.SetQuota(ctx, p, what, id, n))
		}
	}
	must(h.SetQuota(ctx, p, GroupQuota, 4, mib))
	must(h.SetQuota(ctx, p, GroupQuota, 4, 0)) // and none again
	must(h.Sync(ctx, p))
	for what, show := range accounts {
		ours := map[uint32]uint64{}
		for a, err := range h.Userspace(ctx, p, what) {
			must(err)
			ours[a.ID] = a.Value
		}
		if want, ok := quotas[what]; ok && !maps.Equal(ours, want) {
			t.Errorf("%s are %v, want %v", accountNames[what], ours, want)
		}
		var id uint32
		switch what {
		case UserUsed, UserObjectsUsed:
			id = 1234
		case GroupUsed, GroupObjectsUsed:
			id = 2345
		case ProjectUsed, ProjectObjectsUsed:
			id = 77
		}
		switch n := ours[id]; what {
		case UserObjectsUsed, GroupObjectsUsed, ProjectObjectsUsed:
			if n != 1 && (id != 77 || projects) {
				t.Errorf("%s of %d is %d", accountNames[what], id, n)
			}
		case UserUsed, GroupUsed, ProjectUsed:
			if (n < mib || n > mib+mib/4) && (id != 77 || projects) {
				t.Errorf("%s of %d is %d", accountNames[what], id, n)
			}
		}
		if !commands {
			continue
		}
		args := []string{show[0], "-Hp", "-o", "name," + show[1]}
		if show[0] != "projectspace" {
			args = append(args, "-n")
		}
		theirs := map[uint32]uint64{}
		for _, l := range lines(tool(t, "zfs", append(args, p)...)) {
			var id uint32
			var n uint64
			if k, _ := fmt.Sscan(l, &id, &n); k == 2 {
				theirs[id] = n
			}
		}
		none := func(_ uint32, n uint64) bool { return n == 0 } // the commands also show who is there and has none
		maps.DeleteFunc(ours, none)
		maps.DeleteFunc(theirs, none)
		if !maps.Equal(ours, theirs) || len(ours) == 0 && (projects || show[0] != "projectspace") {
			t.Errorf("%s: ours %v, zfs %s %v", accountNames[what], ours, show[0], theirs)
		}
	}
	if err := h.SetQuota(ctx, p, UserUsed, 1, 1); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	for _, err := range h.Userspace(ctx, p+"/none", GroupUsed) {
		if !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	}
}
