// SPDX-License-Identifier: BSD-2-Clause

package sandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// CloneFlags has nothing to say here.
func CloneFlags() uintptr { return 0 }

// rights are what may be done with a descriptor: rights(4).
var rights = map[Use][]uint64{
	UseDisk:   {unix.CAP_PREAD, unix.CAP_PWRITE, unix.CAP_SEEK, unix.CAP_FSYNC, unix.CAP_FSTAT, unix.CAP_IOCTL, unix.CAP_EVENT, unix.CAP_FCNTL},
	UseRead:   {unix.CAP_PREAD, unix.CAP_SEEK, unix.CAP_FSTAT, unix.CAP_IOCTL, unix.CAP_FCNTL},
	UseTap:    {unix.CAP_READ, unix.CAP_WRITE, unix.CAP_IOCTL, unix.CAP_EVENT, unix.CAP_FSTAT, unix.CAP_FCNTL},
	UseListen: {unix.CAP_ACCEPT, unix.CAP_EVENT, unix.CAP_GETSOCKNAME, unix.CAP_GETPEERNAME, unix.CAP_GETSOCKOPT, unix.CAP_READ, unix.CAP_WRITE, unix.CAP_SHUTDOWN, unix.CAP_FSTAT, unix.CAP_FCNTL},
	UseLog:    {unix.CAP_PWRITE, unix.CAP_SEEK, unix.CAP_FTRUNCATE, unix.CAP_FSYNC, unix.CAP_FSTAT, unix.CAP_FCNTL},
	UseLock:   {unix.CAP_FSTAT},
}

// Enter shuts this process in, for good: capability mode, and on each descriptor
// no more than its use needs. Descriptors that the hypervisor's device gave are
// not among o.Files and keep what they have.
func Enter(o Options) error {
	for use, files := range o.Files {
		r, err := unix.CapRightsInit(rights[use])
		if err != nil {
			return fmt.Errorf("capability rights: %w", err)
		}
		for _, fd := range files {
			if err := unix.CapRightsLimit(fd, r); err != nil {
				return fmt.Errorf("limit rights of descriptor %d: cap_rights_limit: %w", fd, err)
			}
		}
	}
	for _, l := range []struct {
		name string
		res  int
		max  int64
	}{{"RLIMIT_CORE", unix.RLIMIT_CORE, 0}, {"RLIMIT_NOFILE", unix.RLIMIT_NOFILE, 512}} {
		if err := unix.Setrlimit(l.res, &unix.Rlimit{Cur: l.max, Max: l.max}); err != nil {
			return fmt.Errorf("setrlimit %s: %w", l.name, err)
		}
	}
	return os.NewSyscallError("cap_enter", unix.CapEnter())
}
