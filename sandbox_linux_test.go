// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/internal/worker"
)

// A refusal is of what a guest that has broken out of its VMM would try next.
type refusal struct {
	name string
	try  func() error
}

var refusals = []refusal{
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

// vmRefusals are those that only a worker with a real machine can try, by the
// descriptors that it has of it.
func vmRefusals(f *vmFiles) []refusal {
	ioctl := func(fd int, request uint) func() error {
		return func() error { return unix.IoctlSetInt(fd, request, 0) }
	}
	return []refusal{
		// By the numbers of linux/kvm.h and linux/if_tun.h.
		{"make a virtual machine by its own", ioctl(f.vm, 0xae01)},
		{"make it another vCPU", ioctl(f.vm, 0xae41)},
		{"make it a device", ioctl(f.vm, 0xc00caee0)},
		{"make it a file of memory", ioctl(f.vm, 0xc040aed4)},
		{"give it other memory", ioctl(f.vm, 0x4020ae46)},
		{"give it other memory by the newer request", ioctl(f.vm, 0x40a0ae49)},
		{"give it a capability", ioctl(f.vm, 0x4068aea3)},
		{"open its statistics", ioctl(f.vm, 0xaece)},
		{"move its task segment", ioctl(f.vm, 0xae47)},
		{"give a vCPU a capability", ioctl(f.vcpu, 0x4068aea3)},
		{"give a vCPU another processor", ioctl(f.vcpu, 0x4008ae90)},
		{"debug a vCPU", ioctl(f.vcpu, 0x4048ae9b)},
		{"give a vCPU another mask of signals", ioctl(f.vcpu, 0x4004ae8b)},
		{"map a vCPU to run it", func() error {
			_, err := unix.Mmap(f.vcpu, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_SHARED)
			return err
		}},
		{"make the tap another interface", ioctl(f.tap, unix.TUNSETIFF)},
		{"make the tap stay", ioctl(f.tap, unix.TUNSETPERSIST)},
		{"give the tap away", ioctl(f.tap, unix.TUNSETOWNER)},
		{"filter the tap", ioctl(f.tap, unix.TUNATTACHFILTER)},
	}
}

// vmFiles are the descriptors that a worker has of its machine.
type vmFiles struct{ vm, vcpu, tap int }

// openVM finds them in this process, which has built its guest.
func openVM(cfg worker.Config) (*vmFiles, error) {
	f := &vmFiles{vm: -1, vcpu: -1, tap: cfg.Files[worker.FileTap]}
	links, err := filesOf("self")
	if err != nil {
		return nil, err
	}
	for fd, link := range links {
		switch {
		case link == "anon_inode:kvm-vm":
			f.vm = fd
		case strings.HasPrefix(link, "anon_inode:kvm-vcpu"):
			f.vcpu = fd
		}
	}
	if f.vm < 0 || f.vcpu < 0 || f.tap <= 0 {
		return nil, fmt.Errorf("no machine is among %v", links)
	}
	return f, nil
}

// filesOf is what a process has open, by /proc.
func filesOf(pid string) (map[int]string, error) {
	dir := "/proc/" + pid + "/fd/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	links := map[int]string{}
	for _, e := range entries {
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err != nil {
			return nil, err
		}
		link, err := os.Readlink(dir + e.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue // closed meanwhile
		}
		if err != nil {
			return nil, err
		}
		links[fd] = link
	}
	return links, nil
}

// diskAttempts would fill the file system that the disk's file is on. That file has 8
// MiB, and none may grow to more than 16 (package worker).
var diskAttempts = []attempt{
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

// attempts are all of them. There are no rights to a single descriptor.
func attempts(f *vmFiles) []attempt {
	all, refused := slices.Clone(diskAttempts), slices.Clone(refusals)
	if f != nil {
		refused = append(refused, vmRefusals(f)...)
	}
	for _, r := range refused {
		want := unix.EPERM
		switch r.name {
		case "start a process by clone3":
			want = unix.ENOSYS
		case "take a gibibyte":
			want = unix.ENOMEM
		}
		all = append(all, attempt{r.name, func(int) error { return r.try() }, want})
	}
	return all
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
	files, err := filesOf(fmt.Sprint(pid))
	if err != nil {
		t.Error(err)
	}
	for fd, link := range files {
		if link == "/dev/kvm" {
			t.Errorf("descriptor %d of the worker makes virtual machines", fd)
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
