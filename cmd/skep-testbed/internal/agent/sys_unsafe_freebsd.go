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

// aliasReq is struct in_aliasreq of net/in_var.h.
type aliasReq struct {
	name                  [16]byte
	addr, broadcast, mask unix.RawSockaddrInet4
	vhid                  int32
}

// siocAIfAddr is SIOCAIFADDR: golang.org/x/sys has the one before FreeBSD 10.
const siocAIfAddr = 0x8044692b

// bringUpLoopback gives lo0 its address, which brings it up.
func bringUpLoopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(s)
	inet := func(a, b, c, d byte) unix.RawSockaddrInet4 {
		return unix.RawSockaddrInet4{Len: unix.SizeofSockaddrInet4, Family: unix.AF_INET, Addr: [4]byte{a, b, c, d}}
	}
	r := aliasReq{addr: inet(127, 0, 0, 1), mask: inet(255, 0, 0, 0)}
	copy(r.name[:], "lo0")
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s), siocAIfAddr, uintptr(unsafe.Pointer(&r)))
	runtime.KeepAlive(&r)
	if errno != 0 {
		return fmt.Errorf("address of lo0: %w", errno)
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
