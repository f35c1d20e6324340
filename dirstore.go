// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// dirStore keeps everything in one directory:
//
//	lock                       flock(2) of the daemon
//	images/                    of package image
//	machines/ID/record.json    the record
//	machines/ID/disk.raw       the disk, sparse
//	machines/ID/snap-NAME.raw  snapshots of it
//	machines/ID/…              small files; see store.go
type dirStore struct {
	root string
	lock *os.File
	d    durable
}

const (
	fileRecord = "record.json"
	fileDisk   = "disk.raw"
	snapPrefix = "snap-"
	snapSuffix = ".raw"
)

func openDirStore(root string, fault func(string)) (*dirStore, error) {
	s := &dirStore{root: root, d: durable{fault: fault}}
	for _, dir := range []string{root, s.machines(), s.images()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open store %s: %w", root, err)
		}
	}
	lock, err := lockFile(filepath.Join(root, "lock"))
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", root, err)
	}
	s.lock = lock
	return s, nil
}

// lockFile takes a daemon's lock, which goes with the process; the file says
// for people whose it is.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		who := make([]byte, 16)
		n, _ := f.ReadAt(who, 0)
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w (process %s)", ErrLocked, strings.TrimSpace(string(who[:n])))
		}
		return nil, os.NewSyscallError("flock", err)
	}
	if err := f.Truncate(0); err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
		if err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

func (s *dirStore) machines() string      { return filepath.Join(s.root, "machines") }
func (s *dirStore) images() string        { return filepath.Join(s.root, "images") }
func (s *dirStore) dir(r *record) string  { return filepath.Join(s.machines(), r.ID) }
func (s *dirStore) disk(r *record) string { return filepath.Join(s.dir(r), fileDisk) }
func (s *dirStore) close() error          { return s.lock.Close() }

func (s *dirStore) load(context.Context) ([]*record, error) {
	if err := s.d.sweep(s.machines()); err != nil {
		return nil, fmt.Errorf("clean store: %w", err)
	}
	entries, err := os.ReadDir(s.machines())
	if err != nil {
		return nil, fmt.Errorf("load store: %w", err)
	}
	var all []*record
	for _, e := range entries {
		if !idRule.MatchString(e.Name()) {
			continue // not ours
		}
		dir := filepath.Join(s.machines(), e.Name())
		if err := s.d.sweep(dir); err != nil {
			return nil, fmt.Errorf("clean machine %s: %w", e.Name(), err)
		}
		b, err := os.ReadFile(filepath.Join(dir, fileRecord))
		if err != nil {
			return nil, fmt.Errorf("load machine %s: %w", e.Name(), err)
		}
		r, err := decodeRecord(b, e.Name())
		if err != nil {
			return nil, fmt.Errorf("load machine %s: %s: %w", e.Name(), dir, err)
		}
		all = append(all, r)
	}
	return all, nil
}

func (s *dirStore) create(ctx context.Context, r *record) error {
	tmp := filepath.Join(s.machines(), prefixNew+r.ID)
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	s.d.fault("made the directory")
	err := s.put(tmp, r)
	if err == nil {
		err = s.d.rename(tmp, s.dir(r))
	}
	if err != nil {
		err = errors.Join(err, os.RemoveAll(tmp))
	}
	return err
}

func (s *dirStore) put(dir string, r *record) error {
	b, err := r.encode()
	if err != nil {
		return err
	}
	return s.d.write(filepath.Join(dir, fileRecord), 0o600, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

func (s *dirStore) save(ctx context.Context, r *record) error { return s.put(s.dir(r), r) }

func (s *dirStore) remove(ctx context.Context, r *record) error { return s.d.removeDir(s.dir(r)) }

func (s *dirStore) cloneImage(ctx context.Context, r *record, img warmImage) error {
	for _, f := range []struct{ from, to string }{{img.kernel, fileKernel}, {img.initrd, fileInitrd}} {
		if f.from == "" {
			continue
		}
		if err := s.copy(ctx, f.from, filepath.Join(s.dir(r), f.to), 0); err != nil {
			return err
		}
	}
	return s.copy(ctx, img.disk, s.disk(r), r.Spec.Disk)
}

func (s *dirStore) cloneDisk(ctx context.Context, r, from *record) error {
	for _, name := range []string{fileKernel, fileInitrd} {
		err := s.copy(ctx, filepath.Join(s.dir(from), name), filepath.Join(s.dir(r), name), 0)
		if ignoreNotExist(err) != nil {
			return err
		}
	}
	src := s.disk(from)
	if r.Source.Snapshot != "" {
		src = s.snapPath(from, r.Source.Snapshot)
	}
	return s.copy(ctx, src, s.disk(r), r.Spec.Disk)
}

// copy clones a file as a whole, and grows it to size if it is smaller.
func (s *dirStore) copy(ctx context.Context, from, to string, size int64) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	return s.d.write(to, 0o600, func(w io.Writer) error {
		dst := w.(*os.File)
		if err := cloneFile(ctx, dst, src, fi.Size()); err != nil {
			return fmt.Errorf("clone %s: %w", filepath.Base(from), err)
		}
		return dst.Truncate(max(size, fi.Size()))
	})
}

func (s *dirStore) openDisk(ctx context.Context, r *record) (*os.File, error) {
	return os.OpenFile(s.disk(r), os.O_RDWR, 0)
}

func (s *dirStore) dropDisk(ctx context.Context, r *record) error {
	return errors.Join(
		s.d.remove(s.disk(r)),
		s.d.remove(filepath.Join(s.dir(r), fileKernel)),
		s.d.remove(filepath.Join(s.dir(r), fileInitrd)),
	)
}

func (s *dirStore) diskUsed(r *record) (int64, error) {
	entries, err := os.ReadDir(s.dir(r))
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, e := range entries {
		if e.Name() != fileDisk && !strings.HasPrefix(e.Name(), snapPrefix) {
			continue
		}
		n, err := allocated(filepath.Join(s.dir(r), e.Name()))
		if ignoreNotExist(err) != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// allocated is what a file takes on disk, in bytes.
func allocated(path string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Blocks * 512, nil
}

func (s *dirStore) free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: s.root, Err: err}
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

func (s *dirStore) snapPath(r *record, name string) string {
	return filepath.Join(s.dir(r), snapPrefix+name+snapSuffix)
}

func (s *dirStore) snapshot(ctx context.Context, r *record, name string) error {
	path := s.snapPath(r, name)
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("snapshot %s: %w", name, ErrExists)
	}
	return s.copy(ctx, s.disk(r), path, 0)
}

func (s *dirStore) snapshots(ctx context.Context, r *record) ([]Snapshot, error) {
	entries, err := os.ReadDir(s.dir(r))
	if err != nil {
		return nil, err
	}
	var all []Snapshot
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), snapPrefix)
		if !ok {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			return nil, err
		}
		n, err := allocated(filepath.Join(s.dir(r), e.Name()))
		if err != nil {
			return nil, err
		}
		all = append(all, Snapshot{Name: strings.TrimSuffix(name, snapSuffix), Created: fi.ModTime().UTC(), Used: n})
	}
	slices.SortFunc(all, func(a, b Snapshot) int { return a.Created.Compare(b.Created) })
	return all, nil
}

func (s *dirStore) removeSnapshot(ctx context.Context, r *record, name string) error {
	path := s.snapPath(r, name)
	if _, err := os.Lstat(path); err != nil {
		return notFound("snapshot "+name, err)
	}
	return s.d.remove(path)
}

func (s *dirStore) rollback(ctx context.Context, r *record, name string) error {
	path := s.snapPath(r, name)
	if _, err := os.Lstat(path); err != nil {
		return notFound("snapshot "+name, err)
	}
	return s.copy(ctx, path, s.disk(r), 0)
}

func notFound(what string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	return err
}
