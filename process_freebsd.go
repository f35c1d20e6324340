// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	defaultRunDir = "/var/run/skep"
	emulator      = "bhyve"
	// maxSocketPath is sizeof(sun_path) less the NUL: unix(4).
	maxSocketPath = 103
	// linuxArgs are what a Linux guest is told besides: it counts ticks of the
	// 8254 at boot and panics when they are late, as a busy host makes them. KVM's
	// guests know that they need not count; bhyve is none that Linux 6.1 knows.
	linuxArgs = " no_timer_check"
)

// bootID tells one boot of the host from another: sysctl kern.boot_id.
func bootID() (string, error) {
	b, err := unix.SysctlRaw("kern.boot_id")
	if err != nil {
		return "", fmt.Errorf("identity of the host's boot: sysctl kern.boot_id: %w", err)
	}
	return hex.EncodeToString(b), nil
}

// hostMemory is the host's memory in bytes: sysctl hw.physmem.
func hostMemory() (int64, error) {
	n, err := unix.SysctlUint64("hw.physmem")
	if err != nil {
		return 0, fmt.Errorf("the host's memory: sysctl hw.physmem: %w", err)
	}
	return int64(n), nil
}

// ownExecutable names this program's file.
func ownExecutable() ([]string, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("this program's file: %w", err)
	}
	return []string{path}, nil
}

// processBirth is ki_start of sysctl kern.proc.pid, in microseconds.
func processBirth(pid int) (string, error) {
	b, err := unix.SysctlRaw("kern.proc.pid", pid)
	if err == nil && len(b) == 0 {
		err = unix.ESRCH
	}
	if err != nil {
		return "", fmt.Errorf("start time of process %d: %w", pid, err)
	}
	if len(b) != sizeofKinfoProc {
		return "", fmt.Errorf("start time of process %d: struct kinfo_proc has %d bytes, not %d", pid, len(b), sizeofKinfoProc)
	}
	sec := binary.NativeEndian.Uint64(b[offsetKinfoProcStart:])
	usec := binary.NativeEndian.Uint64(b[offsetKinfoProcStart+8:])
	return fmt.Sprintf("%d.%06d", sec, usec), nil
}

// killProcess kills a process if it still is the one that was born then.
func killProcess(pid int, birth string) error {
	now, err := processBirth(pid)
	if errors.Is(err, unix.ESRCH) || err == nil && now != birth {
		return nil
	}
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return os.NewSyscallError("kill", err)
	}
	return nil
}
