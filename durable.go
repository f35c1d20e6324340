// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// What is not yet whole, or to be removed, is called so until it is renamed or
// gone; loading a store removes it.
const (
	prefixNew   = ".new-"
	prefixTrash = ".trash-"
)

// durable is the file system, spoken to so that a power cut leaves the state
// before or the state after. fault is called between any two lasting changes.
type durable struct {
	fault func(string)
	sync  func(*os.File) error // nil: the file's own; tests look on
}

// write replaces a file as a whole: written beside, synced, renamed, the
// directory synced.
func (d durable) write(path string, mode os.FileMode, fill func(w io.Writer) error) (err error) {
	dir, base := filepath.Split(path)
	tmp := filepath.Join(dir, prefixNew+base)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreNotExist(os.Remove(tmp)))
		}
	}()
	d.fault("created " + base)
	err = fill(f)
	if err == nil {
		err = d.flush(f)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	d.fault("wrote " + base)
	return d.rename(tmp, path)
}

// rename renames and syncs the directory of the new name.
func (d durable) rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	d.fault("renamed " + filepath.Base(to))
	return d.flushDir(filepath.Dir(to))
}

// remove removes a file, if it is there, and syncs the directory.
func (d durable) remove(path string) error {
	if err := os.Remove(path); err != nil {
		return ignoreNotExist(err)
	}
	d.fault("removed " + filepath.Base(path))
	return d.flushDir(filepath.Dir(path))
}

// removeDir removes a directory: renamed first, so that it is whole or gone.
func (d durable) removeDir(path string) error {
	dir, base := filepath.Split(path)
	trash := filepath.Join(dir, prefixTrash+base)
	if err := os.RemoveAll(trash); err != nil {
		return err
	}
	if err := d.rename(path, trash); err != nil {
		return ignoreNotExist(err)
	}
	if err := os.RemoveAll(trash); err != nil {
		return err
	}
	d.fault("removed " + base)
	return nil
}

// sweep removes from a directory what was not whole, or to be removed.
func (d durable) sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreNotExist(err)
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefixNew) || strings.HasPrefix(e.Name(), prefixTrash) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// flush brings a file, or a directory's names, to the disk.
func (d durable) flush(f *os.File) error {
	if d.sync != nil {
		return d.sync(f)
	}
	return f.Sync()
}

func (d durable) flushDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.flush(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func ignoreNotExist(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
