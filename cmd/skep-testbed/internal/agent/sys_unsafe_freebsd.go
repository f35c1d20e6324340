// SPDX-License-Identifier: BSD-2-Clause

package agent

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kldload loads a kernel module by name (kldload(2)).
func kldload(name string) error {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_KLDLOAD, uintptr(unsafe.Pointer(p)), 0, 0)
	runtime.KeepAlive(p)
	if errno != 0 {
		return fmt.Errorf("load module %s: %w", name, errno)
	}
	return nil
}

// nmount mounts by name and value pairs (nmount(2)); an option without a value
// is given as "".
func nmount(flags int, pairs ...string) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	iov := make([]unix.Iovec, len(pairs))
	for i, s := range pairs {
		if s == "" && i%2 == 1 {
			continue
		}
		b, err := unix.ByteSliceFromString(s)
		if err != nil {
			return err
		}
		pin.Pin(&b[0])
		iov[i].Base = &b[0]
		iov[i].SetLen(len(b))
	}
	_, _, errno := unix.Syscall(unix.SYS_NMOUNT, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)), uintptr(flags))
	if errno != 0 {
		return fmt.Errorf("mount %q: %w", pairs, errno)
	}
	return nil
}

const (
	idTypePID        = 0 // P_PID of sys/wait.h
	procReapAcquire  = 2 // sys/procctl.h
	procReapKill     = 6
	reaperKillSubdir = 2 // REAPER_KILL_SUBTREE
	rbPowerOff       = 0x4000
)

// reapKillArg is struct procctl_reaper_kill.
type reapKillArg struct {
	sig    int32
	flags  uint32
	sub    int32
	killed uint32
	failed int32
	_      [15]uint32
}

// becomeReaper makes orphans of this process's descendants its children.
func becomeReaper() error {
	_, _, errno := unix.Syscall6(unix.SYS_PROCCTL, idTypePID, 0, procReapAcquire, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("procctl(PROC_REAP_ACQUIRE): %w", errno)
	}
	return nil
}

// killSubtree kills the descendants that came by the child pid of this reaper.
func killSubtree(pid int) {
	arg := reapKillArg{sig: int32(unix.SIGKILL), flags: reaperKillSubdir, sub: int32(pid)}
	_, _, _ = unix.Syscall6(unix.SYS_PROCCTL, idTypePID, uintptr(unix.Getpid()), procReapKill, uintptr(unsafe.Pointer(&arg)), 0, 0)
	runtime.KeepAlive(&arg)
}

func powerOff() {
	unix.Sync()
	_, _, _ = unix.Syscall(unix.SYS_REBOOT, rbPowerOff, 0, 0)
	select {}
}
