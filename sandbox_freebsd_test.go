// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// probes are what a guest that has broken out of its VMM would try next, with how
// the kernel refuses.
var probes = []struct {
	name string
	try  func(disk int) error
	want syscall.Errno
}{
	{"open a file", func(int) error { _, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0); return err }, unix.ECAPMODE},
	{"make a file", func(int) error { _, err := unix.Open("/x", unix.O_CREAT|unix.O_WRONLY, 0o600); return err }, unix.ECAPMODE},
	{"open the hypervisor", func(int) error { _, err := unix.Open("/dev/vmmctl", unix.O_RDWR, 0); return err }, unix.ECAPMODE},
	{"connect", func(int) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Connect(fd, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{127, 0, 0, 1}})
	}, unix.ECAPMODE},
	{"start a program", func(int) error { return syscall.Exec("/bin/sh", []string{"sh"}, nil) }, unix.ECAPMODE},
	// Capability mode lets a process fork; its limit of processes does not.
	{"start a process", func(int) error {
		return child(unix.RawSyscall(unix.SYS_FORK, 0, 0, 0))
	}, unix.EAGAIN},
	{"start a process by pdfork", func(int) error { return pdfork() }, unix.EAGAIN},
	{"raise the limit of processes", func(int) error {
		return unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: 10, Max: 10})
	}, unix.EPERM},
	{"take a gibibyte", func(int) error {
		b, err := unix.Mmap(-1, 0, 1<<30, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err == nil {
			_ = unix.Munmap(b)
		}
		return err
	}, unix.ENOMEM},
	{"trace a process", func(int) error { return unix.PtraceAttach(1) }, unix.ECAPMODE},
	{"signal another", func(int) error { return unix.Kill(1, 0) }, unix.ECAPMODE},
	{"mount", func(int) error { return unix.Unmount("/tmp", 0) }, unix.ECAPMODE},
	{"become root", func(int) error { return unix.Setresuid(0, 0, 0) }, unix.EPERM},
	{"leave the root", func(int) error { return unix.Chroot("/") }, unix.ECAPMODE},
	// What would fill the file system that the disk's file is on. That file has 8 MiB,
	// and none may grow to more than 16 (package worker).
	{"write behind the disk's end", func(disk int) error { _, err := unix.Pwrite(disk, []byte("x"), 16*MiB); return err }, unix.EFBIG},
	{"write far behind the disk's end", func(disk int) error { _, err := unix.Pwrite(disk, []byte("x"), 1<<40); return err }, unix.EFBIG},
	{"write much to the disk", func(disk int) error {
		b := make([]byte, MiB)
		for off := int64(8 * MiB); ; off += MiB {
			if _, err := unix.Pwrite(disk, b, off); err != nil {
				return err
			}
			if off > 64*MiB {
				return nil
			}
		}
	}, unix.EFBIG},
	{"raise the limit of files", func(int) error {
		return unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 40, Max: 1 << 40})
	}, unix.EPERM},
	// What the rights of a descriptor leave out.
	{"cut the disk short", func(disk int) error { return unix.Ftruncate(disk, 0) }, unix.ENOTCAPABLE},
	{"change the disk's mode", func(disk int) error { return unix.Fchmod(disk, 0o777) }, unix.ENOTCAPABLE},
	{"map the disk", func(disk int) error {
		_, err := unix.Mmap(disk, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
		return err
	}, unix.ENOTCAPABLE},
	{"a request that no disk needs", func(disk int) error {
		_, err := unix.IoctlGetInt(disk, fionread)
		return err
	}, unix.ENOTCAPABLE},
	{"be signalled by the disk", func(disk int) error {
		_, err := unix.FcntlInt(uintptr(disk), unix.F_SETOWN, 1)
		return err
	}, unix.ENOTCAPABLE},
	{"read the log", func(int) error { _, err := unix.Read(2, make([]byte, 1)); return err }, unix.ENOTCAPABLE},
	{"cut the log short", func(int) error { return unix.Ftruncate(2, 0) }, unix.ENOTCAPABLE},
}

const fionread = 0x4004667f // FIONREAD of sys/filio.h

// child is what fork answers; a child ends at once.
func child(pid, _ uintptr, e syscall.Errno) error {
	if e != 0 {
		return e
	}
	if pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
	return nil
}

// probe tries everything, and says of each how it was refused.
func probe(disk *os.File, say func(string)) {
	fd := int(disk.Fd())
	for _, p := range probes {
		err := p.try(fd)
		how := "refused"
		if !errors.Is(err, p.want) {
			how = fmt.Sprintf("%v, want %v", err, p.want)
		}
		say(fmt.Sprintf("probe %s: %s", p.name, how))
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
	refused := 0
	for sc := bufio.NewScanner(c); sc.Scan() && sc.Text() != "probed"; {
		what, how, ok := strings.Cut(strings.TrimPrefix(sc.Text(), "probe "), ": ")
		if !ok {
			continue
		}
		if how != "refused" {
			t.Errorf("%s: %s", what, how)
		}
		refused++
	}
	if refused != len(probes) {
		t.Errorf("%d of %d probes were answered", refused, len(probes))
	}
	typeLine(t, m, "hello") // the guest runs on
	checkConfined(t, m.Status().WorkerPID)
	p.destroyAll(t, h)
}

// checkConfined looks at a worker from outside: ki_cr_flags of kinfo_proc says
// KI_CRF_CAPABILITY_MODE, ki_uid whose it is (sys/user.h).
func checkConfined(t *testing.T, pid int) {
	t.Helper()
	b, err := unix.SysctlRaw("kern.proc.pid", pid)
	if err != nil || len(b) != sizeofKinfoProc {
		t.Fatalf("kinfo_proc of %d: %d bytes, %v", pid, len(b), err)
	}
	if flags := binary.NativeEndian.Uint32(b[588:]); flags&1 == 0 {
		t.Errorf("the worker is not in capability mode: %#x", flags)
	}
	if uid := binary.NativeEndian.Uint32(b[168:]); uid == 0 && os.Geteuid() == 0 {
		t.Error("the worker is root")
	}
	checkDescriptors(t, pid)
	if on, err := unix.SysctlRaw("kern.racct.enable"); err != nil || len(on) == 0 || on[0] == 0 {
		t.Logf("NOT RUN: rctl rules of a worker: kern.racct.enable is %v, %v", on, err)
		return
	}
	rules, err := rulesOf(pid)
	if err != nil || strings.Count(rules, fmt.Sprintf("process:%d:", pid)) != 4 {
		t.Errorf("the worker's rules are %q, %v", rules, err)
	}
}

// Offsets in struct kinfo_file, its types, and bits of cap_rights_t (sys/user.h,
// sys/capsicum.h).
const (
	kfType, kfFD, kfRights, kfPath = 4, 8, 344, 368

	kfTypeVnode, kfTypeSocket = 1, 2

	capBits   = 1<<57 - 1 // of one word, without its index
	capFchmod = 0x2000    // of the first
	capIoctl  = 0x80      // of the second
)

// checkDescriptors looks at the rights that a worker has to what it has open: to
// nothing all, to its machine no more than ioctl(2), and none to /dev/vmmctl, by
// which every machine of the host can be destroyed.
func checkDescriptors(t *testing.T, pid int) {
	t.Helper()
	b, err := unix.SysctlRaw("kern.proc.filedesc", pid)
	if err != nil {
		t.Fatalf("descriptors of %d: %v", pid, err)
	}
	n := 0
	for len(b) >= kfPath {
		size := int(binary.NativeEndian.Uint32(b))
		if size < kfPath || size > len(b) {
			break // the end
		}
		e := b[:size]
		b = b[size:]
		fd, typ := int32(binary.NativeEndian.Uint32(e[kfFD:])), binary.NativeEndian.Uint32(e[kfType:])
		if fd < 0 || typ != kfTypeVnode && typ != kfTypeSocket {
			continue // its directories and program; the runtime's kqueue
		}
		n++
		rights := [2]uint64{binary.NativeEndian.Uint64(e[kfRights:]) & capBits, binary.NativeEndian.Uint64(e[kfRights+8:]) & capBits}
		path, _, _ := strings.Cut(string(e[kfPath:]), "\x00")
		t.Logf("descriptor %d %s: rights %#x", fd, path, rights)
		switch {
		case rights[0]&capFchmod != 0:
			t.Errorf("descriptor %d (%s) is not limited: %#x", fd, path, rights)
		case strings.HasSuffix(path, "/vmmctl") && rights != [2]uint64{}:
			t.Errorf("descriptor %d, %s, has rights %#x", fd, path, rights)
		case strings.Contains(path, "/vmm/") && rights != [2]uint64{0, capIoctl}:
			t.Errorf("descriptor %d, %s, has rights %#x", fd, path, rights)
		}
	}
	if n < 5 {
		t.Errorf("only %d descriptors were seen", n)
	}
}
