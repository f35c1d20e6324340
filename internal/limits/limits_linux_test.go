// SPDX-License-Identifier: BSD-2-Clause

package limits

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLocate(t *testing.T) {
	const unified = `22 1 0:20 / /proc rw - proc proc rw
30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
`
	const hybrid = `30 22 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
31 22 0:27 / /sys/fs/cgroup/uni\040fied rw - cgroup2 cgroup2 rw
`
	const part = "31 22 0:27 /a/b /mnt rw - cgroup2 cgroup2 rw\n"
	for _, c := range []struct{ mounts, groups, want, err string }{
		{unified, "0::/system.slice/skepd.service\n", "/sys/fs/cgroup/system.slice/skepd.service", ""},
		{unified, "0::/\n", "/sys/fs/cgroup", ""},
		{hybrid, "5:memory:/x\n1:name=systemd:/y\n0::/z\n", "/sys/fs/cgroup/uni fied/z", ""},
		{hybrid, "5:memory:/x\n", "", "no cgroup v2"},
		{part, "0::/a/b/c\n", "/mnt/c", ""},
		{part, "0::/a/bc\n", "", "not mounted where"},
		{part + unified, "0::/c\n", "/sys/fs/cgroup/c", ""},
		{unified, "0::/../other\n", "", "cannot be seen"},
		{unified, "0::/a/../b\n", "", "cannot be seen"},
		{"22 1 0:20 / /proc rw - proc proc rw\n", "0::/\n", "", "not mounted"},
		{"", "", "", "no cgroup v2"},
	} {
		got, err := locate(c.mounts, c.groups)
		if got != c.want || c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%q among %q: %q, %v; want %q, %q", c.groups, c.mounts, got, err, c.want, c.err)
		}
	}
}

// fake is a directory that looks like the tree of groups.
type fake struct {
	top    string
	wrote  []string // FILE=TEXT, relative to top
	refuse map[string]error
}

// newFake makes a group with controllers and processes, which is no root.
func newFake(t *testing.T, controllers, procs string) *fake {
	t.Helper()
	f := &fake{top: t.TempDir(), refuse: map[string]error{}}
	for name, text := range map[string]string{"cgroup.controllers": controllers, "cgroup.procs": procs, "cgroup.type": "domain\n"} {
		if err := os.WriteFile(filepath.Join(f.top, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *fake) host() *Host { return &Host{k: kernel{write: f.write, rmdir: os.RemoveAll, pid: 7}} }

func (f *fake) write(file, text string) error {
	rel, err := filepath.Rel(f.top, file)
	if err != nil {
		return err
	}
	if err := f.refuse[rel+"="+text]; err != nil {
		return err
	}
	f.wrote = append(f.wrote, rel+"="+text)
	return os.WriteFile(file, []byte(text), 0o600)
}

func enabled(controllers ...string) (w []string) {
	for _, c := range controllers {
		w = append(w, "cgroup.subtree_control=+"+c, "skep-machines/cgroup.subtree_control=+"+c)
	}
	return w
}

func TestOpen(t *testing.T) {
	const all = "cpuset cpu io memory hugetlb pids\n"
	moved := "skep-daemon/cgroup.procs=7"
	for _, c := range []struct {
		name, controllers, procs string
		change                   func(*fake, *Host)
		own                      string // below top
		wrote                    []string
		err                      string
		place                    bool
	}{
		{name: "alone", controllers: all, procs: "7\n", wrote: append([]string{moved}, enabled("memory", "pids", "cpu")...), place: true},
		{name: "with others", controllers: all, procs: "7\n8\n", err: "not the daemon's alone: process 8"},
		{name: "aside already", controllers: all, procs: "", own: daemonGroup, wrote: enabled("memory", "pids", "cpu"), place: true},
		{name: "some controllers", controllers: "pids io", procs: "7\n", wrote: append([]string{moved}, enabled("pids")...), err: "lacks the controller memory", place: true},
		{name: "no controllers", controllers: "", procs: "7\n", err: "has no controllers"},
		{name: "by systemd, in its unit's group", controllers: all, procs: "7\n", err: "DelegateSubgroup=skep-daemon",
			change: func(f *fake, h *Host) { h.k.systemd = true }},
		{name: "by systemd, aside", controllers: all, own: daemonGroup, wrote: enabled("memory", "pids", "cpu"), place: true,
			change: func(f *fake, h *Host) { h.k.systemd = true }},
		{name: "in the root", controllers: all, procs: "1\n7\n8\n", wrote: enabled("memory", "pids", "cpu"), place: true,
			change: func(f *fake, h *Host) { os.Remove(filepath.Join(f.top, "cgroup.type")) }},
		{name: "a process in the way", controllers: all, own: daemonGroup, err: "device or resource busy",
			change: func(f *fake, h *Host) {
				for _, c := range controllers() {
					f.refuse["cgroup.subtree_control=+"+c] = unix.EBUSY
				}
			}},
		{name: "read only", controllers: all, procs: "7\n", err: "read-only",
			change: func(f *fake, h *Host) { f.refuse[moved] = unix.EROFS }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t, c.controllers, c.procs)
			h := f.host()
			if c.change != nil {
				c.change(f, h)
			}
			err := h.open(filepath.Join(f.top, c.own))
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("%v, want %q", err, c.err)
			}
			if !slices.Equal(f.wrote, c.wrote) {
				t.Errorf("it wrote %q, want %q", f.wrote, c.wrote)
			}
			want := ""
			if c.place {
				want = filepath.Join(f.top, machinesGroup, "id")
			}
			if got := h.Place("id"); got != want {
				t.Errorf("the place is %q, want %q", got, want)
			}
			// As it is, it is used.
			g, err := h.Make(want, Bounds{CPUs: 1})
			if err != nil || (g != nil) != c.place {
				t.Errorf("a group: %v, %v", g, err)
			}
			if g != nil {
				g.Close()
			}
		})
	}
}

func TestMake(t *testing.T) {
	f := newFake(t, "memory pids cpu", "")
	h := f.host()
	if err := h.open(filepath.Join(f.top, daemonGroup)); err != nil {
		t.Fatal(err)
	}
	f.wrote = nil
	place := h.Place("id")
	// What is left of an earlier run goes.
	if err := os.MkdirAll(filepath.Join(place, "old"), 0o700); err != nil {
		t.Fatal(err)
	}
	f.refuse["skep-machines/id/cpu.max=400000 100000"] = fs.ErrNotExist // CONFIG_CFS_BANDWIDTH
	g, err := h.Make(place, Bounds{CPUs: 3, Memory: 1 << 30})
	if g == nil || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "cpu.max") {
		t.Fatalf("%v, %v", g, err)
	}
	defer g.Close()
	if g.Name() != place {
		t.Errorf("it is %s, want %s", g.Name(), place)
	}
	want := []string{"skep-machines/id/memory.max=1614807040", "skep-machines/id/pids.max=512", "skep-machines/id/cpu.weight=300"}
	if !slices.Equal(f.wrote, want) {
		t.Errorf("it wrote %q, want %q", f.wrote, want)
	}
	if _, err := os.Stat(filepath.Join(place, "old")); !os.IsNotExist(err) {
		t.Errorf("of the run before: %v", err)
	}
	if err := h.Remove(place); err != nil {
		t.Error(err)
	}
	if err := h.Remove(place); err != nil {
		t.Errorf("one that is not there: %v", err)
	}
}

func TestRemove(t *testing.T) {
	f := newFake(t, "", "")
	h := f.host()
	busy := 3
	h.k.rmdir = func(dir string) error {
		if busy--; busy > 0 {
			return unix.EBUSY
		}
		return unix.Rmdir(dir)
	}
	place := filepath.Join(f.top, machinesGroup, "id")
	if err := os.MkdirAll(place, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := h.Remove(place); err != nil || busy != 0 {
		t.Errorf("its worker was just ending: %v, %d", err, busy)
	}
	for _, other := range []string{f.top, filepath.Join(f.top, machinesGroup), filepath.Join(f.top, "other.service")} {
		if err := h.Remove(other); err == nil || !strings.Contains(err.Error(), "no machine's") {
			t.Errorf("%s: %v", other, err)
		}
	}
	h.k.rmdir = func(string) error { return unix.EBUSY }
	if err := h.Remove(place); !errors.Is(err, unix.EBUSY) {
		t.Errorf("one with processes: %v", err)
	}
}

func TestVerdict(t *testing.T) {
	h := &Host{}
	for _, c := range []struct{ events, want string }{
		{"low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n", "it took more memory than the 1048576 bytes of its control group"},
		{"low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\n", ""},
		{"max 0\noom 0\noom_kill 1\n", "the host had no memory left"},
		{"oom_kill\noom_kill x\noom_kill -1\n\n", ""},
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{"memory.events": c.events, "memory.max": "1048576\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := h.Verdict(dir); got != c.want {
			t.Errorf("%q: %q, want %q", c.events, got, c.want)
		}
	}
	for _, none := range []string{"", t.TempDir()} {
		if got := h.Verdict(none); got != "" {
			t.Errorf("%q: %q", none, got)
		}
	}
}

// The service file has systemd start the daemon where Open looks for it.
func TestServiceFile(t *testing.T) {
	unit, err := os.ReadFile("../../dist/skepd.service.in")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Delegate=yes", "DelegateSubgroup=" + daemonGroup, "KillMode=process"} {
		if !slices.Contains(strings.Split(string(unit), "\n"), want) {
			t.Errorf("it lacks %s", want)
		}
	}
}
