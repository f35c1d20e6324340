// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"time"
)

// Warm makes an image ready, and does nothing if it is: it fetches, verifies,
// and converts it into the store. Of many that warm one image at once, in this
// process or another, one does the work and the others wait for it. progress
// may be nil; it is called from the caller's goroutine.
//
// A failure leaves nothing, but for what an interrupted fetch already brought,
// which the next Warm goes on from.
func (s *Store) Warm(ctx context.Context, img Image, progress func(Progress)) (*Warmed, error) {
	if err := img.Check(); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	if w, err := s.ready(img); w != nil || err != nil {
		return w, err
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	progress(Progress{Image: img.Name, What: "disk", Stage: StageWait, Total: -1})
	var w *Warmed
	err := s.locked(ctx, img.Name, func() (err error) {
		if w, err = s.ready(img); w != nil || err != nil {
			return err
		}
		if err := s.warm(ctx, img, progress); err != nil {
			return err
		}
		w, err = s.Get(img.Name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// ready finds the image as the catalogue has it now; nil if it is not there, or
// was another file.
func (s *Store) ready(img Image) (*Warmed, error) {
	w, err := s.Get(img.Name)
	switch {
	case errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt):
		return nil, nil
	case err != nil:
		return nil, err
	}
	same := func(a, b *File) bool {
		return a == nil && b == nil || a != nil && b != nil && (a.Checksum.set() && a.Checksum == b.Checksum || *a == *b)
	}
	if !same(&File{img.Source, img.Checksum}, &File{w.Source, w.Checksum}) || img.Format != w.Format ||
		!same(img.Kernel, w.Kernel) || !same(img.Initrd, w.Initrd) {
		return nil, nil
	}
	// The rest is words about the image, of which the catalogue's are newer.
	w.Image = img
	return w, nil
}

// staged is a file that is written, and not yet in its place.
type staged struct{ tmp, path string }

func (s *Store) warm(ctx context.Context, img Image, progress func(Progress)) (err error) {
	var done []staged
	defer func() {
		for _, d := range done {
			if rerr := os.Remove(d.tmp); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
	}()
	report := func(what string) func(Stage, int64, int64) {
		return func(st Stage, d, t int64) { progress(Progress{img.Name, what, st, d, t}) }
	}
	for _, f := range []struct {
		what string
		file *File
	}{{"kernel", img.Kernel}, {"initrd", img.Initrd}} {
		if f.file == nil {
			continue
		}
		tmp, err := s.bootFile(ctx, img.Name, *f.file, report(f.what))
		if err != nil {
			return fmt.Errorf("%s: %w", f.what, err)
		}
		done = append(done, staged{tmp, s.file(img.Name, "."+f.what)})
	}
	tmp, size, err := s.disk(ctx, img, report("disk"))
	if err != nil {
		return err
	}
	done = append(done, staged{tmp, s.file(img.Name, ".raw")})
	return s.commit(img, size, done)
}

// commit takes back the old record, puts the files into their places, and
// writes the new record last.
func (s *Store) commit(img Image, size int64, files []staged) error {
	if err := s.forget(img.Name); err != nil {
		return err
	}
	for _, d := range files {
		if err := os.Rename(d.tmp, d.path); err != nil {
			return err
		}
	}
	if err := syncDir(s.dir); err != nil {
		return err
	}
	tmp, err := s.temp(img.Name)
	if err != nil {
		return err
	}
	err = writeAtomically(s.file(img.Name, ".json"), 0o644, tmp, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(record{Version: 1, Image: img, VirtualSize: size, Time: time.Now().UTC()})
	})
	if err != nil {
		return err
	}
	// Partial downloads of what the image was before.
	if _, err := s.removeAll(img.Name + "+"); err != nil {
		return err
	}
	return syncDir(s.dir)
}

const maxBootFile = 1 << 30 // of a kernel or initrd

// bootFile copies a kernel or initrd into a temporary file.
func (s *Store) bootFile(ctx context.Context, name string, f File, report func(Stage, int64, int64)) (path string, err error) {
	src, err := s.source(ctx, name, f, report)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, src.done(err)) }()
	if src.size > maxBootFile {
		return "", fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, src.size, maxBootFile)
	}
	if src.size == 0 {
		return "", corrupt("it is empty")
	}
	return s.write(name, func(out *os.File) error {
		if err := s.conv.space(out.Name(), src.size); err != nil {
			return err
		}
		n, err := io.Copy(out, &watchedReader{ctx: ctx, r: io.NewSectionReader(src.f, 0, src.size)})
		if err != nil {
			return err
		}
		if n != src.size {
			return corrupt("it became shorter while it was read")
		}
		if err := src.unchanged(); err != nil {
			return err
		}
		return out.Sync()
	})
}

// disk converts an image into a temporary raw file.
func (s *Store) disk(ctx context.Context, img Image, report func(Stage, int64, int64)) (path string, size int64, err error) {
	src, err := s.source(ctx, img.Name, File{img.Source, img.Checksum}, report)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, src.done(err)) }()
	path, err = s.write(img.Name, func(out *os.File) error {
		tmp := func() (*os.File, error) { return s.temp(img.Name) }
		err := s.conv.convert(ctx, src.f, out, img.Format, tmp, func(d, t int64) { report(StageConvert, d, t) })
		if err != nil {
			return fmt.Errorf("%s: %w", clip(img.Source), err)
		}
		st, err := out.Stat()
		if err != nil {
			return err
		}
		if size = st.Size(); size == 0 {
			return corrupt("%s: it is empty", clip(img.Source))
		}
		return src.unchanged()
	})
	return path, size, err
}

// write fills a temporary file that only its owner may write; if that fails,
// the file is gone.
func (s *Store) write(name string, fill func(*os.File) error) (path string, err error) {
	out, err := s.temp(name)
	if err != nil {
		return "", err
	}
	err = fill(out)
	if err == nil {
		err = out.Chmod(0o444)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return "", errors.Join(spaceError(err), os.Remove(out.Name()))
	}
	return out.Name(), nil
}

// source is a file that was verified and is open.
type source struct {
	f    *os.File
	size int64
	stat os.FileInfo
	part string // of a fetched file
}

// done closes the file. A fetched one goes, unless only the caller's context
// ended: then it is still good.
func (s *source) done(cause error) error {
	err := s.f.Close()
	if s.part != "" && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) && !errors.Is(cause, ErrNoSpace) {
		err = errors.Join(err, removePart(s.part))
	}
	return err
}

// unchanged tells whether the file is still the one that was verified.
func (s *source) unchanged() error {
	st, err := s.f.Stat()
	if err != nil {
		return err
	}
	if st.Size() != s.size || !st.ModTime().Equal(s.stat.ModTime()) || !reflect.DeepEqual(ctime(st), ctime(s.stat)) {
		return corrupt("%s changed while it was read", s.f.Name())
	}
	return nil
}

// source opens and verifies a file, after it fetched it if it is elsewhere.
func (s *Store) source(ctx context.Context, name string, f File, report func(Stage, int64, int64)) (*source, error) {
	remote, path, err := f.where()
	if err != nil {
		return nil, err
	}
	if remote == nil {
		return openSource(ctx, path, "", f.Checksum, report)
	}
	key := sha256.Sum256([]byte(f.Source + "\n" + string(f.Checksum)))
	part := s.file(name, fmt.Sprintf("+%x.part", key[:8]))
	st, err := os.Stat(part)
	resumed := err == nil && st.Size() > 0
	for {
		if err := s.http.fetch(ctx, remote, part, func(d, t int64) { report(StageFetch, d, t) }); err != nil {
			var keep error
			if errors.Is(err, ErrNotFound) || errors.Is(err, ErrTooLarge) {
				keep = removePart(part)
			}
			return nil, errors.Join(err, keep, removeEmpty(part))
		}
		src, err := openSource(ctx, part, part, f.Checksum, report)
		if err == nil || !errors.Is(err, ErrChecksum) {
			return src, err
		}
		err = fmt.Errorf("%s: %w", remote.Redacted(), err)
		if rerr := removePart(part); rerr != nil || !resumed {
			return nil, errors.Join(err, rerr)
		}
		// A crash or another day's file may have spoilt what was gone on from.
		resumed = false
	}
}

// removeEmpty removes a partial file that nothing came for.
func removeEmpty(part string) error {
	if st, err := os.Stat(part); err != nil || st.Size() > 0 {
		return nil
	}
	return removePart(part)
}

func openSource(ctx context.Context, path, part string, sum Checksum, report func(Stage, int64, int64)) (*source, error) {
	// Not to wait for the other end of a FIFO.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = refused("%s is no regular file", path)
	}
	if err == nil {
		err = sum.verify(ctx, io.NewSectionReader(f, 0, st.Size()), func(d int64) { report(StageVerify, d, st.Size()) })
	}
	if err != nil {
		if part == "" {
			err = fmt.Errorf("%s: %w", filepath.Clean(path), err)
		}
		return nil, errors.Join(err, f.Close())
	}
	return &source{f: f, size: st.Size(), stat: st, part: part}, nil
}
