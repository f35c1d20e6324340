// SPDX-License-Identifier: BSD-2-Clause

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// CloneFlags are what a process to be shut in is started with: namespaces of
// its own. Without root there are none, and the filter stands alone.
func CloneFlags() uintptr {
	if os.Geteuid() != 0 {
		return 0
	}
	return unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID
}

// Enter shuts this process in, for good. It was started with CloneFlags and no
// other thread of it does anything yet that the filter forbids.
func Enter(o Options) error {
	size, err := addressSpace() // /proc goes
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := emptyRoot(); err != nil {
			return fmt.Errorf("empty file system: %w", err)
		}
	}
	signal.Ignore(unix.SIGXFSZ) // which would end the process; EFBIG says it, too
	if err := limits(size, uint64(o.FileSize), os.Geteuid() == 0 && o.UID != 0); err != nil {
		return err
	}
	if os.Geteuid() == 0 && o.UID != 0 {
		if err := become(int(o.UID)); err != nil {
			return err
		}
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_DUMPABLE", err)
	}
	return filter(uint64(o.FileSize))
}

// emptyRoot makes of an empty, read-only tmpfs the root of this process's mount
// namespace: pivot_root(2), "pivot_root(".", ".")".
func emptyRoot() error {
	// What happens here must not be seen by the host.
	err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == unix.EINVAL {
		return detachedRoot() // in a chroot: / is no mount point, which pivot_root wants too
	}
	if err != nil {
		return os.NewSyscallError("mount MS_PRIVATE", err)
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	var errs []error
	for _, at := range []string{"/run", "/tmp", "/dev", "/proc"} {
		if err := unix.Mount("skep", at, "tmpfs", flags, "size=4k,nr_inodes=2,mode=555"); err != nil {
			errs = append(errs, fmt.Errorf("mount tmpfs at %s: %w", at, err))
			continue
		}
		if err := unix.Chdir(at); err != nil {
			return os.NewSyscallError("chdir", err)
		}
		if err := unix.PivotRoot(".", "."); err != nil {
			return os.NewSyscallError("pivot_root", err)
		}
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return os.NewSyscallError("umount2", err)
		}
		if err := unix.Chdir("/"); err != nil {
			return os.NewSyscallError("chdir", err)
		}
		return os.NewSyscallError("remount", unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY|flags, ""))
	}
	return errors.Join(errs...)
}

// detachedRoot makes the root of a tmpfs that is mounted nowhere: nothing leads
// from it to the file systems that this process's namespace still has.
func detachedRoot() error {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	for _, o := range [][2]string{{"size", "4k"}, {"nr_inodes", "2"}, {"mode", "555"}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return fmt.Errorf("fsconfig %s: %w", o[0], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("fsconfig create: %w", err)
	}
	const attr = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(root)
	if err := unix.Fchdir(root); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	return os.NewSyscallError("chroot", unix.Chroot("."))
}

// limits keeps a process that was broken into from filling tables, memory and disks:
// size is what it has mapped, file what a file may grow to, alone whether it will be
// a user that nobody else is.
func limits(size, file uint64, alone bool) error {
	type limit struct {
		name string
		res  int
		max  uint64
	}
	all := []limit{
		{"RLIMIT_CORE", unix.RLIMIT_CORE, 0}, // guest memory is nobody's to read
		{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE, Files},
		{"RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK, 64 << 10},
		{"RLIMIT_AS", unix.RLIMIT_AS, size + Growth},
		{"RLIMIT_FSIZE", unix.RLIMIT_FSIZE, file},
	}
	if alone {
		all = append(all, limit{"RLIMIT_NPROC", unix.RLIMIT_NPROC, Threads})
	}
	for _, l := range all {
		if err := unix.Setrlimit(l.res, &unix.Rlimit{Cur: l.max, Max: l.max}); err != nil {
			return fmt.Errorf("setrlimit %s: %w", l.name, err)
		}
	}
	return nil
}

// addressSpace is how much this process has mapped: proc_pid_statm(5), in bytes.
func addressSpace() (uint64, error) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("address space: %w", err)
	}
	var pages uint64
	if _, err := fmt.Sscan(string(b), &pages); err != nil {
		return 0, fmt.Errorf("address space: /proc/self/statm %q: %w", b, err)
	}
	return pages * uint64(os.Getpagesize()), nil
}

// become takes on a user and group of its own, on all threads.
func become(id int) error {
	if err := syscall.Setgroups(nil); err != nil {
		return os.NewSyscallError("setgroups", err)
	}
	if err := syscall.Setresgid(id, id, id); err != nil {
		return os.NewSyscallError("setresgid", err)
	}
	return os.NewSyscallError("setresuid", syscall.Setresuid(id, id, id))
}
