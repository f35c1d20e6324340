// SPDX-License-Identifier: BSD-2-Clause

package worker

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/internal/sandbox"
)

// uses says what each file that was handed over is for.
var uses = map[string]sandbox.Use{
	FileDisk:   sandbox.UseDisk,
	FileSeed:   sandbox.UseRead,
	FileKernel: sandbox.UseRead,
	FileInitrd: sandbox.UseRead,
	FileTap:    sandbox.UseTap,
	FileLog:    sandbox.UseLog,
	FileExit:   sandbox.UseLog,
	FileLock:   sandbox.UseHold,
	FileUser:   sandbox.UseHold,
}

// logRoom is the least that a file may grow to: a worker's own last words, in its log,
// and what the guest wrote to its console have room in it.
const logRoom = 16 << 20

// fileSize is how large the largest file may be that this worker writes to: a disk in
// a file, as it is. The bound is one for all: the log and the exit file of a worker
// that was broken into may become as large.
func fileSize(cfg Config) (int64, error) {
	size := max(logRoom, cfg.LogLimit)
	if fd, ok := cfg.Files[FileDisk]; ok {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return 0, fmt.Errorf("size of the disk: %w", err)
		}
		size = max(size, st.Size) // a device has none, and is not bound
	}
	return size, nil
}

// confine shuts the worker in. The guest is built and has not run.
func confine(cfg Config, guest Guest, l net.Listener) error {
	if !cfg.Sandbox {
		return nil
	}
	if err := guest.Confine(); err != nil {
		return err
	}
	size, err := fileSize(cfg)
	if err != nil {
		return err
	}
	o := sandbox.Options{UID: cfg.UID, FileSize: size, Files: map[sandbox.Use][]uintptr{
		sandbox.UseErr:  {2},
		sandbox.UseHold: {0, 1}, // /dev/null
	}}
	for name, fd := range cfg.Files {
		if use, ok := uses[name]; ok {
			o.Files[use] = append(o.Files[use], uintptr(fd))
		}
	}
	if ul, ok := l.(*net.UnixListener); ok {
		raw, err := ul.SyscallConn()
		if err != nil {
			return err
		}
		err = raw.Control(func(fd uintptr) { o.Files[sandbox.UseListen] = []uintptr{fd} })
		if err != nil {
			return err
		}
	}
	return sandbox.Enter(o)
}
