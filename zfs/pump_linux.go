// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// bigPipe makes a pipe that holds as much as an unprivileged one may.
func bigPipe() (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err == nil {
		// A refusal leaves the pipe at 64 KiB, which works as well, slower.
		_ = control(w, func(fd int) error {
			_, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pumpSize)
			return err
		})
	}
	return r, w, err
}

func control(f *os.File, do func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var derr error
	if err := c.Control(func(fd uintptr) { derr = do(int(fd)) }); err != nil {
		return err
	}
	return derr
}

func isPipe(f *os.File) bool {
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeNamedPipe != 0
}

// spliceAll moves pages from pipe to pipe without copying them, and tells how many
// bytes it moved. It is done at the end of r, or leaves the rest to be copied: where
// they are no pipes, and where one of them cannot be waited for, since it was closed
// or, as a standard output often does, blocks, which the runtime's poller does not take.
func spliceAll(w io.Writer, r io.Reader, progress func(uint64)) (total uint64, done bool, err error) {
	wf, wok := w.(*os.File)
	rf, rok := r.(*os.File)
	if !wok || !rok || !isPipe(wf) || !isPipe(rf) {
		return 0, false, nil
	}
	rc, err := rf.SyscallConn()
	if err != nil {
		return 0, false, nil
	}
	wc, err := wf.SyscallConn()
	if err != nil {
		return 0, false, nil
	}
	for {
		var n int64
		var serr, cerr error
		full := false
		err := rc.Read(func(from uintptr) bool {
			cerr = wc.Control(func(to uintptr) {
				n, serr = unix.Splice(int(from), nil, int(to), nil, pumpSize, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
			})
			if cerr != nil || serr != syscall.EAGAIN {
				return true
			}
			// Either the one is empty or the other is full: ask which.
			full = readable(int(from))
			return full
		})
		switch {
		case err != nil || cerr != nil:
			return total, false, nil
		case serr == syscall.EAGAIN && full:
			if err := wc.Write(func(to uintptr) bool { return writable(int(to)) }); err != nil {
				return total, false, nil
			}
		case serr == syscall.EINTR:
		case serr != nil:
			return total, true, serr
		case n == 0:
			return total, true, nil
		default:
			total += uint64(n)
			progress(total)
		}
	}
}

func readable(fd int) bool { return polled(fd, unix.POLLIN) }
func writable(fd int) bool { return polled(fd, unix.POLLOUT) }

func polled(fd int, events int16) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	n, err := unix.Poll(p, 0)
	return err != nil || n > 0
}
