// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// snapDir is the directory that a mounted file system has of its snapshots. It
// tells many names in one call, where a request of the module tells one, for
// which it looks the dataset and the snapshot up anew.
type snapDir struct {
	name  string // of the file system
	mount mountPoint
	pos   int64
	buf   [16 << 10]byte
}

// snapshotDir finds it; nil where it is not mounted, not shown (snapdir=disabled), or below another's mount.
func (w *walk) snapshotDir(name string) *snapDir {
	for _, m := range w.ahead.mounted()[name] {
		d := &snapDir{name: name, mount: m}
		if fd, err := d.open(); err == nil {
			_ = unix.Close(fd)
			return d
		}
	}
	return nil
}

var errNotSnapshots = errors.New("it is not the directory of the snapshots")

func (d *snapDir) open() (fd int, err error) {
	path := filepath.Join(d.mount.at, ".zfs", "snapshot")
	fd, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && (st.Ino != snapDirInode || !d.mount.has(fd, &st)) {
		err = errNotSnapshots
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return fd, nil
}

// next reads some more names, none at the end. It keeps nothing open meanwhile:
// whoever wants to unmount the file system does not wait for the reader of a listing.
func (d *snapDir) next() (names []string, err error) {
	fd, err := d.open()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if _, err := unix.Seek(fd, d.pos, unix.SEEK_SET); err != nil {
		return nil, err
	}
	for len(names) == 0 {
		n, err := unix.ReadDirent(fd, d.buf[:])
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if n <= 0 || err != nil {
			return nil, err
		}
		_, _, names = unix.ParseDirent(d.buf[:n], -1, names)
		if d.pos, err = unix.Seek(fd, 0, unix.SEEK_CUR); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// tell emits all snapshots, and reports whether the walk goes on.
func (d *snapDir) tell(w *walk) bool {
	told := ""
	for w.ctx.Err() == nil {
		names, err := d.next()
		if err != nil {
			// Unmounted meanwhile. The module has the same order.
			return w.requestSnapshots(d.name, told, false)
		}
		if len(names) == 0 {
			return true
		}
		for _, s := range names {
			told = d.name + "@" + s
			if !w.emit(&Dataset{Name: told, Kind: Snapshot, head: Filesystem, version: w.h.known()}, nil) {
				return false
			}
		}
	}
	return w.fail(&Error{Op: "list", Name: d.name, Err: w.ctx.Err()})
}
