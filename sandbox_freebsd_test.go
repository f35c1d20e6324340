// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/internal/worker"
)

// anyAttempts are those of any worker.
var anyAttempts = []attempt{
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

// vmFiles are the descriptors that a worker has of its machine.
type vmFiles struct {
	vm, tap int
	ctl     int // -1 before FreeBSD 15, which has no /dev/vmmctl
}

// openVM finds them in this process, which has built its guest.
func openVM(cfg worker.Config) (*vmFiles, error) {
	all, err := descriptorsOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	f := &vmFiles{vm: -1, ctl: -1, tap: cfg.Files[worker.FileTap]}
	for _, d := range all {
		switch {
		case d.machine():
			f.vm = d.fd
		case d.control():
			f.ctl = d.fd
		}
	}
	if f.vm < 0 || f.tap <= 0 {
		return nil, fmt.Errorf("no machine is among %v", all)
	}
	return f, nil
}

// vmAttempts are those that only a worker with a real machine can make, by the
// descriptors that it has of it.
func vmAttempts(f *vmFiles) []attempt {
	request := func(fd int, nr uintptr) func(int) error { return func(int) error { return ioctl(fd, nr) } }
	ctl := unix.ENOTCAPABLE
	if f.ctl < 0 {
		ctl = unix.EBADF
	}
	var b [8]byte
	return []attempt{
		// By the numbers of machine/vmm_dev.h and net/if_tap.h.
		{"make a machine", request(f.ctl, 0xc1285600), ctl},
		{"destroy a machine", request(f.ctl, 0xc1285601), ctl},
		{"give the machine more memory", request(f.vm, 0x8038760e), unix.ENOTCAPABLE},
		{"give the machine other processors", request(f.vm, 0x8008763f), unix.ENOTCAPABLE},
		{"give the machine a device of the host's", request(f.vm, 0x800c7628), unix.ENOTCAPABLE},
		{"read the guest's memory by the machine", func(int) error { _, err := unix.Pread(f.vm, b[:], 0); return err }, unix.ENOTCAPABLE},
		{"write the guest's memory by the machine", func(int) error { _, err := unix.Pwrite(f.vm, b[:], 0); return err }, unix.ENOTCAPABLE},
		{"map the machine", func(int) error {
			_, err := unix.Mmap(f.vm, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
			return err
		}, unix.ENOTCAPABLE},
		{"ask for the tap's name", request(f.tap, 0x4020745d), unix.ENOTCAPABLE},
		{"change the tap's address", request(f.tap, 0x8020693c), unix.ENOTCAPABLE},
	}
}

// attempts are all of them.
func attempts(f *vmFiles) []attempt {
	if f == nil {
		return anyAttempts
	}
	return slices.Concat(anyAttempts, vmAttempts(f))
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

// descriptor is one of a process's, as the kernel tells of it.
type descriptor struct {
	fd     int
	path   string
	rights [2]uint64
}

func (d descriptor) machine() bool { return strings.Contains(d.path, "/vmm/") }
func (d descriptor) control() bool { return strings.HasSuffix(d.path, "/vmmctl") }

// descriptorsOf are a process's that are files or sockets: not its directories and
// program, nor the runtime's kqueue.
func descriptorsOf(pid int) ([]descriptor, error) {
	b, err := unix.SysctlRaw("kern.proc.filedesc", pid)
	if err != nil {
		return nil, fmt.Errorf("descriptors of %d: %w", pid, err)
	}
	var all []descriptor
	for len(b) >= kfPath {
		size := int(binary.NativeEndian.Uint32(b))
		if size < kfPath || size > len(b) {
			break // the end
		}
		e := b[:size]
		b = b[size:]
		fd, typ := int32(binary.NativeEndian.Uint32(e[kfFD:])), binary.NativeEndian.Uint32(e[kfType:])
		if fd < 0 || typ != kfTypeVnode && typ != kfTypeSocket {
			continue
		}
		path, _, _ := strings.Cut(string(e[kfPath:]), "\x00")
		all = append(all, descriptor{int(fd), path, [2]uint64{
			binary.NativeEndian.Uint64(e[kfRights:]) & capBits, binary.NativeEndian.Uint64(e[kfRights+8:]) & capBits}})
	}
	return all, nil
}

// checkDescriptors looks at the rights that a worker has to what it has open: to
// nothing all, to its machine no more than ioctl(2), and none to /dev/vmmctl, by
// which every machine of the host can be destroyed.
func checkDescriptors(t *testing.T, pid int) {
	t.Helper()
	all, err := descriptorsOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		t.Logf("descriptor %d %s: rights %#x", d.fd, d.path, d.rights)
		switch {
		case d.rights[0]&capFchmod != 0:
			t.Errorf("descriptor %d (%s) is not limited: %#x", d.fd, d.path, d.rights)
		case d.control() && d.rights != [2]uint64{}:
			t.Errorf("descriptor %d, %s, has rights %#x", d.fd, d.path, d.rights)
		case d.machine() && d.rights != [2]uint64{0, capIoctl}:
			t.Errorf("descriptor %d, %s, has rights %#x", d.fd, d.path, d.rights)
		}
	}
	if len(all) < 5 {
		t.Errorf("only %d descriptors were seen", len(all))
	}
}
