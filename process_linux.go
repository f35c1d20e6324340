// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	defaultRunDir = "/run/skep"
	emulator      = "kvm"
	// maxSocketPath is sizeof(sun_path) less the NUL: unix(7).
	maxSocketPath = 107
	// linuxArgs are what a Linux guest is told besides.
	linuxArgs = ""
)

// bootID tells one boot of the host from another.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("identity of the host's boot: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// hostMemory is the host's memory in bytes.
func hostMemory() (int64, error) {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return 0, os.NewSyscallError("sysinfo", err)
	}
	return int64(si.Totalram) * int64(si.Unit), nil
}

// ownExecutable names this program's file, also when it was replaced.
func ownExecutable() ([]string, error) { return []string{"/proc/self/exe"}, nil }

// processBirth is field 22 of /proc/PID/stat, starttime: proc_pid_stat(5).
func processBirth(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", fmt.Errorf("start time of process %d: %w", pid, err)
	}
	// Field 2 is the name in brackets, which may hold anything.
	_, rest, ok := bytes.Cut(b[max(0, bytes.LastIndexByte(b, ')')):], []byte(") "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 20 {
		return "", fmt.Errorf("start time of process %d: /proc/%d/stat is %.80q", pid, pid, b)
	}
	return string(fields[19]), nil
}

// killProcess kills a process if it still is the one that was born then.
func killProcess(pid int, birth string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	// The descriptor names one process: if its birth is right now, the signal
	// reaches that one or nobody.
	now, err := processBirth(pid)
	if err != nil || now != birth {
		return ignoreNotExist(err)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	return nil
}
