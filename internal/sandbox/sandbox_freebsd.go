// SPDX-License-Identifier: BSD-2-Clause

package sandbox

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"slices"

	"golang.org/x/sys/unix"
)

// CloneFlags has nothing to say here.
func CloneFlags() uintptr { return 0 }

// limit is what may be done with a descriptor: rights(4), and the requests of
// ioctl(2) where CAP_IOCTL is among them. Of fcntl(2) no use has more than to read
// and set the flags: F_SETOWN would let signals be sent to others.
type limit struct {
	rights []uint64
	ioctls []uint
}

var limits = map[Use]limit{
	UseDisk: {
		[]uint64{unix.CAP_PREAD, unix.CAP_PWRITE, unix.CAP_SEEK, unix.CAP_FSYNC, unix.CAP_FSTAT, unix.CAP_IOCTL, unix.CAP_EVENT, unix.CAP_FCNTL},
		[]uint{unix.DIOCGFLUSH, unix.DIOCGDELETE},
	},
	UseRead:   {rights: []uint64{unix.CAP_PREAD, unix.CAP_SEEK, unix.CAP_FSTAT, unix.CAP_FCNTL}},
	UseTap:    {rights: []uint64{unix.CAP_READ, unix.CAP_WRITE, unix.CAP_EVENT, unix.CAP_FSTAT, unix.CAP_FCNTL}},
	UseListen: {rights: []uint64{unix.CAP_ACCEPT, unix.CAP_EVENT, unix.CAP_GETSOCKNAME, unix.CAP_GETPEERNAME, unix.CAP_GETSOCKOPT, unix.CAP_READ, unix.CAP_WRITE, unix.CAP_SHUTDOWN, unix.CAP_FSTAT, unix.CAP_FCNTL}},
	UseLog:    {rights: []uint64{unix.CAP_PWRITE, unix.CAP_SEEK, unix.CAP_FTRUNCATE, unix.CAP_FSYNC, unix.CAP_FSTAT, unix.CAP_FCNTL}},
	UseErr:    {rights: []uint64{unix.CAP_WRITE, unix.CAP_FSTAT}},
	UseHold:   {rights: []uint64{unix.CAP_FSTAT}},
}

// fcntlFlags is CAP_FCNTL_GETFL | CAP_FCNTL_SETFL (sys/capsicum.h).
const fcntlFlags = 1<<unix.F_GETFL | 1<<unix.F_SETFL

// put puts it in force on a descriptor. What rights take away goes with its
// ioctls and fcntls.
func (l limit) put(fd uintptr) error {
	r, err := unix.CapRightsInit(l.rights)
	if err != nil {
		return fmt.Errorf("capability rights: %w", err)
	}
	if err := unix.CapRightsLimit(fd, r); err != nil {
		return os.NewSyscallError("cap_rights_limit", err)
	}
	if slices.Contains(l.rights, unix.CAP_IOCTL) {
		if err := limitIoctls(fd, l.ioctls); err != nil {
			return os.NewSyscallError("cap_ioctls_limit", err)
		}
	}
	if slices.Contains(l.rights, unix.CAP_FCNTL) {
		if _, _, e := unix.Syscall(unix.SYS_CAP_FCNTLS_LIMIT, fd, fcntlFlags, 0); e != 0 {
			return os.NewSyscallError("cap_fcntls_limit", e)
		}
	}
	return nil
}

// Enter shuts this process in, for good: capability mode, and on each descriptor
// no more than its use needs.
func Enter(o Options) error {
	for use, files := range o.Files {
		for _, fd := range files {
			if err := limits[use].put(fd); err != nil {
				return fmt.Errorf("limit descriptor %d: %w", fd, err)
			}
		}
	}
	size, err := addressSpace()
	if err != nil {
		return err
	}
	signal.Ignore(unix.SIGXFSZ) // which would end the process; EFBIG says it, too
	for _, l := range []struct {
		name string
		res  int
		max  int64
	}{
		{"RLIMIT_CORE", unix.RLIMIT_CORE, 0},
		{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE, Files},
		// Capability mode permits fork(2). One process is itself (0 would mean no
		// limit); root is not bound by it.
		{"RLIMIT_NPROC", unix.RLIMIT_NPROC, 1},
		{"RLIMIT_AS", unix.RLIMIT_AS, size + Growth},
		{"RLIMIT_FSIZE", unix.RLIMIT_FSIZE, o.FileSize},
	} {
		if err := unix.Setrlimit(l.res, &unix.Rlimit{Cur: l.max, Max: l.max}); err != nil {
			return fmt.Errorf("setrlimit %s: %w", l.name, err)
		}
	}
	if os.Geteuid() == 0 && o.UID != 0 {
		if err := become(int(o.UID)); err != nil {
			return err
		}
	}
	return os.NewSyscallError("cap_enter", unix.CapEnter())
}

// kiSize is where ki_size, a vm_size_t, lies in struct kinfo_proc (sys/user.h).
const kiSize = 256

// addressSpace is how much this process has mapped, in bytes.
func addressSpace() (int64, error) {
	b, err := unix.SysctlRaw("kern.proc.pid", os.Getpid())
	if err != nil {
		return 0, fmt.Errorf("address space: kern.proc.pid: %w", err)
	}
	if len(b) < kiSize+8 {
		return 0, fmt.Errorf("address space: kern.proc.pid: %d bytes", len(b))
	}
	return int64(binary.NativeEndian.Uint64(b[kiSize:])), nil
}

// become takes on a user and group of its own. What is open stays open: no device
// that a guest needs asks who uses it.
func become(id int) error {
	if err := unix.Setgroups(nil); err != nil {
		return os.NewSyscallError("setgroups", err)
	}
	if err := unix.Setresgid(id, id, id); err != nil {
		return os.NewSyscallError("setresgid", err)
	}
	return os.NewSyscallError("setresuid", unix.Setresuid(id, id, id))
}
