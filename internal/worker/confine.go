// SPDX-License-Identifier: BSD-2-Clause

package worker

import (
	"net"

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
}

// confine shuts the worker in. The guest is built and has not run.
func confine(cfg Config, guest Guest, l net.Listener) error {
	if !cfg.Sandbox {
		return nil
	}
	if err := guest.Confine(); err != nil {
		return err
	}
	o := sandbox.Options{UID: cfg.UID, Files: map[sandbox.Use][]uintptr{
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
