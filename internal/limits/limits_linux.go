// SPDX-License-Identifier: BSD-2-Clause

package limits

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/internal/sandbox"
)

const (
	daemonGroup   = "skep-daemon" // dist/skepd.service.in says so too
	machinesGroup = "skep-machines"
)

// controllers are those that there are limits for.
func controllers() []string { return []string{"memory", "pids", "cpu"} }

// Host is what this host bounds workers with.
type Host struct {
	k        kernel
	machines string   // where workers' groups are; empty: nowhere
	have     []string // of the controllers
}

// kernel is what tests put something else in place of.
type kernel struct {
	write   func(file, text string) error
	rmdir   func(dir string) error
	systemd bool
	pid     int
}

// Open looks what there is to bound workers with, and moves this process aside
// where that is due. The Host can be used whatever the error, which says what this
// host lacks.
func Open() (*Host, error) {
	h := &Host{k: kernel{write: write, rmdir: unix.Rmdir, systemd: booted(), pid: os.Getpid()}}
	own, err := ownGroup()
	if err == nil {
		err = h.open(own)
	}
	if err != nil {
		return h, fmt.Errorf("control groups for workers: %w", err)
	}
	return h, nil
}

// booted tells whether systemd keeps this host's groups: sd_booted(3).
func booted() bool {
	fi, err := os.Lstat("/run/systemd/system")
	return err == nil && fi.IsDir()
}

// write writes to a file of the kernel's, which is there.
func write(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// ownGroup is the directory of this process's group.
func ownGroup() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	return locate(string(mounts), string(groups))
}

// locate finds a process's group among its mounts, by proc_pid_mountinfo(5) and
// cgroups(7).
func locate(mounts, groups string) (string, error) {
	path := ""
	for line := range strings.Lines(groups) {
		if p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			path = p
		}
	}
	if path == "" {
		return "", fmt.Errorf("no cgroup v2: %w", errors.ErrUnsupported)
	}
	if path != filepath.Clean(path) || strings.HasPrefix(path, "/..") {
		return "", fmt.Errorf("the daemon's group %s cannot be seen from here", path)
	}
	for line := range strings.Lines(mounts) {
		where, what, ok := strings.Cut(line, " - ")
		f := strings.Fields(where)
		if !ok || len(f) < 5 || !strings.HasPrefix(what, "cgroup2 ") {
			continue
		}
		// What is mounted need not be the whole tree.
		if rel, err := filepath.Rel(unescape(f[3]), path); err == nil && filepath.IsLocal(rel) {
			return filepath.Join(unescape(f[4]), rel), nil
		}
	}
	return "", fmt.Errorf("cgroup v2 is not mounted where it has the daemon's group %s", path)
}

// unescape takes the octal escapes out of a path of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// open makes the place for workers' groups below the daemon's own.
func (h *Host) open(own string) error {
	top := own
	aside := filepath.Base(own) == daemonGroup
	if aside {
		top = filepath.Dir(own)
	}
	offered, err := os.ReadFile(filepath.Join(top, "cgroup.controllers"))
	if err != nil {
		return err
	}
	there := strings.Fields(string(offered))
	want := slices.DeleteFunc(controllers(), func(c string) bool { return !slices.Contains(there, c) })
	if len(want) == 0 {
		return fmt.Errorf("%s has no controllers", top)
	}
	if h.k.systemd && !aside {
		return fmt.Errorf("systemd did not start the daemon in %s of a group of its own: its unit lacks Delegate=yes or DelegateSubgroup=%s, or systemd is older than 254", daemonGroup, daemonGroup)
	}
	// The root of all groups has no type, and processes may stay in it.
	if _, err := os.Stat(filepath.Join(top, "cgroup.type")); err == nil && !aside {
		if err := h.moveAside(top); err != nil {
			return err
		}
	}
	machines := filepath.Join(top, machinesGroup)
	if err := os.Mkdir(machines, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	var errs []error
	for _, c := range controllers() {
		if !slices.Contains(want, c) {
			errs = append(errs, fmt.Errorf("%s lacks the controller %s", top, c))
			continue
		}
		err := h.k.write(filepath.Join(top, "cgroup.subtree_control"), "+"+c)
		if err == nil {
			err = h.k.write(filepath.Join(machines, "cgroup.subtree_control"), "+"+c)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("enable the controller %s: %w", c, err))
			continue
		}
		h.have = append(h.have, c)
	}
	if len(h.have) > 0 {
		h.machines = machines
	}
	return errors.Join(errs...)
}

// moveAside moves this process from a group to one below it. Others are not its
// to move.
func (h *Host) moveAside(top string) error {
	procs, err := os.ReadFile(filepath.Join(top, "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, pid := range strings.Fields(string(procs)) {
		if pid != strconv.Itoa(h.k.pid) {
			return fmt.Errorf("%s is not the daemon's alone: process %s is there too", top, pid)
		}
	}
	dir := filepath.Join(top, daemonGroup)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := h.k.write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(h.k.pid)); err != nil {
		return fmt.Errorf("move the daemon to a group of its own: %w", err)
	}
	return nil
}

// Place is where a machine's worker is to be, to be written down before it is made;
// empty if there is no place.
func (h *Host) Place(id string) string {
	if h.machines == "" {
		return ""
	}
	return filepath.Join(h.machines, id)
}

// Make makes a place with its limits, anew. A worker is started in it by the file,
// which is the caller's to close; with one an error says what limit could not be
// set. Without a place there is neither.
func (h *Host) Make(place string, b Bounds) (*os.File, error) {
	if place == "" {
		return nil, nil
	}
	if err := h.Remove(place); err != nil { // of an earlier run, with its counts
		return nil, err
	}
	if err := os.Mkdir(place, 0o755); err != nil {
		return nil, fmt.Errorf("control group: %w", err)
	}
	var errs []error
	for _, s := range b.settings() {
		if c, _, _ := strings.Cut(s.file, "."); !slices.Contains(h.have, c) {
			continue
		}
		if err := h.k.write(filepath.Join(place, s.file), s.text); err != nil {
			errs = append(errs, fmt.Errorf("control group: set %s to %q: %w", s.file, s.text, err))
		}
	}
	f, err := os.Open(place)
	if err != nil {
		errs = append(errs, fmt.Errorf("control group: %w", err), h.Remove(place))
		return nil, errors.Join(errs...)
	}
	return f, errors.Join(errs...)
}

// Bind has nothing to add: the worker was born in its place.
func (h *Host) Bind(pid int, b Bounds) error { return nil }

// setting is what is written to a file of a group.
type setting struct{ file, text string }

// settings are a group's limits. Swap is the host's to bound.
func (b Bounds) settings() []setting {
	const period = 100000
	return []setting{
		{"memory.max", strconv.FormatInt(b.memory(), 10)},
		{"pids.max", strconv.Itoa(sandbox.Threads)},
		// All vCPUs at work, and as much as one more for their devices.
		{"cpu.max", fmt.Sprintf("%d %d", (b.CPUs+1)*period, period)},
		// Groups share alike, but vCPUs should.
		{"cpu.weight", strconv.Itoa(100 * b.CPUs)},
	}
}

// endPatience is how long a process may take from letting its files go, by which
// its end is seen, to leaving its group.
const endPatience = time.Second

// Remove removes a place whose worker has ended, if it is there. It takes nothing
// but an empty group of a machine's.
func (h *Host) Remove(place string) error {
	if place == "" {
		return nil
	}
	if filepath.Base(filepath.Dir(place)) != machinesGroup {
		return fmt.Errorf("remove control group %s: it is no machine's", place)
	}
	for end := time.Now().Add(endPatience); ; time.Sleep(2 * time.Millisecond) {
		err := h.k.rmdir(place)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return &fs.PathError{Op: "remove control group", Path: place, Err: err}
		}
	}
}

// Verdict says what was exceeded, if that ended the worker of a place.
func (h *Host) Verdict(place string) string {
	if place == "" {
		return ""
	}
	b, err := os.ReadFile(filepath.Join(place, "memory.events"))
	if err != nil {
		return ""
	}
	n := events(string(b))
	switch {
	case n["oom_kill"] == 0:
		return ""
	case n["oom"] == 0: // this group did not bring it about
		return "the host had no memory left"
	}
	most, err := os.ReadFile(filepath.Join(place, "memory.max"))
	if err != nil {
		return ""
	}
	return fmt.Sprintf("it took more memory than the %s bytes of its control group", strings.TrimSpace(string(most)))
}

// events reads counts by name, one a line.
func events(s string) map[string]uint64 {
	counts := map[string]uint64{}
	for line := range strings.Lines(s) {
		if f := strings.Fields(line); len(f) == 2 {
			if n, err := strconv.ParseUint(f[1], 10, 64); err == nil {
				counts[f[0]] = n
			}
		}
	}
	return counts
}
