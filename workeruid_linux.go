// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// uidTries bounds the search for a user that no other worker is.
const uidTries = 1024

// holdUID finds a user for a worker: the nth of those that begin at base, or one
// after it that no worker of this host is. The limit of threads is a user's, so two
// workers that are one user would share it. Another daemon may have the same base:
// a user is taken by a name among the kernel's abstract sockets (unix(7)), which all
// daemons of a network namespace share and which is free again when the last process
// that has the file ends, the worker. Whoever is on this host may take such names:
// where all of the search's are taken the user is the first, held by nobody, as that
// shares a limit, and a refusal would keep machines from starting.
func holdUID(base uint32, n uint16) (uint32, *os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("user of a worker: %w", os.NewSyscallError("socket", err))
	}
	f := os.NewFile(uintptr(fd), "user of a worker")
	for i := range uint16(uidTries) {
		uid := base + uint32(n+i)
		// Nobody listens: it is a name only.
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("@skep-worker-uid-%d", uid)})
		if err == nil {
			return uid, f, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return 0, nil, errors.Join(fmt.Errorf("user of a worker: %d: %w", uid, os.NewSyscallError("bind", err)), f.Close())
		}
	}
	return base + uint32(n), nil, f.Close()
}
