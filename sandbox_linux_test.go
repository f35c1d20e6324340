// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// probes are what a guest that has broken out of its VMM would try next. Each
// answers how the kernel refused.
var probes = []struct {
	name string
	try  func() error
}{
	{"open a file", func() error { _, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0); return err }},
	{"make a file", func() error { _, err := unix.Open("/x", unix.O_CREAT|unix.O_WRONLY, 0o600); return err }},
	{"make a directory", func() error { return unix.Mkdir("/x", 0o700) }},
	{"make a TCP socket", func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); return err }},
	{"make a Unix socket", func() error { _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err }},
	{"make a netlink socket", func() error { _, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0); return err }},
	{"start a program", func() error { return unix.Exec("/bin/sh", []string{"sh"}, nil) }},
	{"start a process", func() error {
		pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if e == 0 && pid == 0 {
			unix.Exit(0)
		}
		return errnoOf(e)
	}},
	{"start a process by clone3", clone3},
	{"trace a process", func() error { return unix.PtraceAttach(1) }},
	{"read another's memory", func() error {
		var b [8]byte
		_, err := unix.ProcessVMReadv(os.Getpid()+1, []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: 0x1000, Len: 8}}, 0)
		return err
	}},
	{"signal another", func() error { return unix.Kill(os.Getpid()+1, 0) }},
	{"make memory executable", func() error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		return err
	}},
	{"take a gibibyte", takeMuch},
	{"raise the limit of memory", func() error {
		return unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	}},
	{"mount", func() error { return unix.Mount("none", "/", "tmpfs", 0, "") }},
	{"enter a namespace", func() error { return unix.Unshare(unix.CLONE_NEWUSER) }},
	{"type into a terminal", func() error { return unix.IoctlSetPointerInt(0, unix.TIOCSTI, 0) }},
	// By the numbers of linux/kvm.h; the descriptor does not matter.
	{"make a virtual machine", func() error { return unix.IoctlSetInt(0, 0xae01, 0) }},
	{"make a vCPU", func() error { return unix.IoctlSetInt(0, 0xae41, 0) }},
	{"make a device for the guest", func() error { return unix.IoctlSetInt(0, 0xc00caee0, 0) }},
	{"give the guest other memory", func() error { return unix.IoctlSetInt(0, 0x4020ae46, 0) }},
	{"become root", func() error { return errnoOf2(unix.SYS_SETUID, 0) }},
	{"load a BPF program", func() error { return errnoOf2(unix.SYS_BPF, 0) }},
	{"use io_uring", func() error { return errnoOf2(unix.SYS_IO_URING_SETUP, 1) }},
	{"use a call of 32 bits' numbering", func() error { return errnoOf2(0x40000000|unix.SYS_READ, 0) }},
}

// diskProbes would fill the file system that the disk's file is on. That file has 8
// MiB, and none may grow to more than 16 (package worker).
var diskProbes = []struct {
	name string
	try  func(disk int) error
	want syscall.Errno
}{
	{"write behind the end", func(disk int) error { _, err := unix.Pwrite(disk, []byte("x"), 16*MiB); return err }, unix.EFBIG},
	{"write far behind the end", func(disk int) error { _, err := unix.Pwrite(disk, []byte("x"), 1<<40); return err }, unix.EFBIG},
	{"lengthen the disk", func(disk int) error { return unix.Ftruncate(disk, 1<<40) }, unix.EPERM},
	{"cut the disk short", func(disk int) error { return unix.Ftruncate(disk, 4096) }, unix.EPERM},
	{"allocate", func(disk int) error { return unix.Fallocate(disk, 0, 0, 1*MiB) }, unix.EPERM},
	{"allocate behind the end", func(disk int) error { return unix.Fallocate(disk, unix.FALLOC_FL_KEEP_SIZE, 8*MiB, 1<<40) }, unix.EPERM},
	{"zero behind the end", func(disk int) error { return unix.Fallocate(disk, zeroes, 16*MiB+1, 4096) }, unix.EPERM},
	{"zero far behind the end", func(disk int) error { return unix.Fallocate(disk, zeroes, 1<<40, 4096) }, unix.EPERM},
	{"zero too much", func(disk int) error { return unix.Fallocate(disk, zeroes, 0, 1<<40) }, unix.EPERM},
	{"raise the limit of files", func(int) error {
		return unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	}, unix.EPERM},
	// What a guest's requests come down to goes on.
	{"write at the end", func(disk int) error { _, err := unix.Pwrite(disk, []byte("x"), 8*MiB-1); return err }, 0},
	{"punch a hole", func(disk int) error {
		return unix.Fallocate(disk, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4*MiB, 4*MiB)
	}, 0},
	{"zero", func(disk int) error {
		err := unix.Fallocate(disk, zeroes, 4*MiB, 4*MiB)
		if err == unix.EOPNOTSUPP {
			return nil // not every file system can
		}
		return err
	}, 0},
}

const zeroes = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE

func takeMuch() error {
	b, err := unix.Mmap(-1, 0, 1<<30, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err == nil {
		_ = unix.Munmap(b)
	}
	return err
}

func errnoOf(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

func errnoOf2(nr, a uintptr) error {
	_, _, e := unix.RawSyscall(nr, a, 0, 0)
	return errnoOf(e)
}

// probe tries everything, and says of each how it was refused. There are no rights
// to a single descriptor.
func probe(disk *os.File, say func(string)) {
	fd := int(disk.Fd())
	for _, p := range diskProbes {
		how := "as it should be"
		if err := p.try(fd); p.want == 0 && err != nil || p.want != 0 && err != p.want {
			how = fmt.Sprintf("%v, want %v", err, p.want)
		}
		say(fmt.Sprintf("disk %s: %s", p.name, how))
	}
	for _, p := range probes {
		say(fmt.Sprintf("probe %s: %v", p.name, p.try()))
	}
	say("probed")
}

func TestSandbox(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	m := create(t, h, spec("vm1"))
	c, err := m.Console(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, "probe")
	refused, disk := 0, 0
	for sc := bufio.NewScanner(c); sc.Scan() && sc.Text() != "probed"; {
		if what, how, ok := strings.Cut(sc.Text(), ": "); ok && strings.HasPrefix(what, "disk ") {
			if how != "as it should be" {
				t.Errorf("%s: %s", what, how)
			}
			disk++
			continue
		}
		what, how, ok := strings.Cut(strings.TrimPrefix(sc.Text(), "probe "), ": ")
		if !ok {
			continue
		}
		want := []string{unix.EPERM.Error(), unix.ENOSYS.Error()}
		if what == "take a gibibyte" {
			want = []string{unix.ENOMEM.Error()}
		}
		if !slices.Contains(want, how) {
			t.Errorf("%s: %s", what, how)
		}
		refused++
	}
	if refused != len(probes) || disk != len(diskProbes) {
		t.Errorf("%d of %d probes were answered, %d of %d of the disk", refused, len(probes), disk, len(diskProbes))
	}
	// The guest runs on.
	typeLine(t, m, "hello")
	pid := m.Status().WorkerPID
	checkConfined(t, pid)
	if err := m.Stop(t.Context(), StopOptions{}); err != nil {
		t.Error(err)
	}
	p.destroyAll(t, h)
}

// checkConfined looks at a worker from outside.
func checkConfined(t *testing.T, pid int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		got[k] = strings.Join(strings.Fields(v), " ")
	}
	want := map[string]string{
		"NoNewPrivs": "1", "Seccomp": "2",
		"CapInh": zeroCaps, "CapPrm": zeroCaps, "CapEff": zeroCaps, "CapAmb": zeroCaps,
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s of the worker is %q, want %q", k, got[k], v)
		}
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, task.Name()))
		if err != nil {
			continue // it has ended
		}
		for _, line := range []string{"Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t" + zeroCaps} {
			if !strings.Contains(string(b), line) {
				t.Errorf("thread %s lacks %q", task.Name(), line)
			}
		}
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		t.Fatal(err)
	}
	bounded := []string{"Max address space", "Max open files", "Max file size"}
	if os.Geteuid() == 0 {
		bounded = append(bounded, "Max processes")
	}
	for _, what := range bounded {
		_, rest, found := strings.Cut(string(limits), what)
		if f := strings.Fields(rest); !found || f[0] == "unlimited" || f[1] == "unlimited" {
			t.Errorf("%s of the worker has no bound:\n%s", what, limits)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	if uid := strings.Fields(got["Uid"]); len(uid) != 4 || slices.Contains(uid, "0") || slices.Contains(strings.Fields(got["Gid"]), "0") || got["Groups"] != "" {
		t.Errorf("the worker is user %q, group %q, groups %q", got["Uid"], got["Gid"], got["Groups"])
	}
	for _, ns := range []string{"mnt", "net", "ipc", "uts", "pid"} {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		if err != nil {
			t.Error(err)
		}
		if ours, _ := os.Readlink("/proc/self/ns/" + ns); ours == theirs {
			t.Errorf("the worker shares the %s namespace", ns)
		}
	}
	if entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/", pid)); err != nil || len(entries) != 0 {
		t.Errorf("the worker sees files: %v, %v", entries, err)
	}
}

const zeroCaps = "0000000000000000"
