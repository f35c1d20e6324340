// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Limits bound what an image may ask for. A zero field has the default.
type Limits struct {
	Download    int64 // bytes of a fetched file; 64 GiB
	VirtualSize int64 // bytes of a disk; 2 TiB
	// Ratio is how many times its size a compressed file may grow to, blocks of
	// zeros not counted, once it has more than RatioFloor bytes: 200 and 1 GiB.
	Ratio, RatioFloor int64
	// Reserve is what stays free on the file system: 256 MiB.
	Reserve int64
}

// Options are those of a store; the zero value is good.
type Options struct {
	Limits Limits
	// Client fetches; its Timeout should be 0. nil is one of the store's own.
	Client *http.Client
	// Tries is how many requests in a row may bring nothing, 0 meaning 6;
	// RetryMin and RetryMax bound the pause between them (1 s, 30 s). Stall is
	// the longest time without a byte (60 s).
	Tries              int
	RetryMin, RetryMax time.Duration
	Stall              time.Duration
}

// Store is a directory of images that are ready:
//
//	NAME.json    the record, which is written last: without it, the rest counts for nothing
//	NAME.raw     the disk, sparse and read-only
//	NAME.kernel  NAME.initrd, where the image has them
//	NAME+*.part  what is being fetched, and is gone on with after a crash
//	.tmp+NAME+*  what is being written
//	.lock+NAME   who does it
//
// Several stores, also of several processes, may be open on one directory.
type Store struct {
	dir  string
	conv converter
	http fetcher
}

func or[T int | int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// OpenStore opens the store in dir, which it makes if need be.
func OpenStore(dir string, o Options) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("image: store: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("image: store: %w", err)
	}
	l := Limits{
		Download:    or(o.Limits.Download, 64<<30),
		VirtualSize: or(o.Limits.VirtualSize, 2<<40),
		Ratio:       or(o.Limits.Ratio, 200),
		RatioFloor:  or(o.Limits.RatioFloor, 1<<30),
		Reserve:     or(o.Limits.Reserve, 256<<20),
	}
	space := func(path string, need int64) error { return needSpace(path, need, l.Reserve) }
	client := o.Client
	if client == nil {
		client = &http.Client{CheckRedirect: checkRedirect, Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			TLSHandshakeTimeout:    30 * time.Second,
			MaxResponseHeaderBytes: 1 << 20,
			ForceAttemptHTTP2:      true,
			// A fetch is one request: no connection, and no goroutine, stays
			// behind it.
			DisableKeepAlives: true,
		}}
	}
	return &Store{
		dir:  dir,
		conv: converter{limits: l, space: space},
		http: fetcher{
			client: client, tries: or(o.Tries, 6), first: or(o.RetryMin, time.Second), most: or(o.RetryMax, 30*time.Second),
			stall: or(o.Stall, time.Minute), limit: l.Download, space: space,
		},
	}, nil
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("more than 10 redirects")
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errHTTPDowngrade
	}
	return nil
}

// Stage is what Warm is doing.
type Stage string

// The stages, in their order; each may be missing.
const (
	StageWait    Stage = "wait" // for another that warms the same image
	StageFetch   Stage = "fetch"
	StageVerify  Stage = "verify"
	StageConvert Stage = "convert"
)

// Progress tells how far Warm is with a stage, in bytes; Total is -1 where
// nobody knows. What is "disk", "kernel" or "initrd".
type Progress struct {
	Image       string
	What        string
	Stage       Stage
	Done, Total int64
}

// Warmed is an image that is ready in a store.
type Warmed struct {
	Image
	// Path is the raw disk, of VirtualSize bytes; KernelPath and InitrdPath are
	// empty where the image has none.
	Path        string
	VirtualSize int64
	KernelPath  string
	InitrdPath  string
	Time        time.Time
}

// record is a Warmed as its file has it.
type record struct {
	Version     int
	Image       Image
	VirtualSize int64
	Time        time.Time
}

func (s *Store) file(name, suffix string) string { return filepath.Join(s.dir, name+suffix) }

// Get finds an image that is ready; else the error is ErrNotFound.
func (s *Store) Get(name string) (*Warmed, error) {
	if err := CheckName(name); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	b, err := os.ReadFile(s.file(name, ".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("image %q: %w in the store %s", name, ErrNotFound, s.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", name, err)
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil || r.Version != 1 || r.Image.Name != name {
		return nil, fmt.Errorf("image %q: %w: the record %s is not as this release writes it (%v)", name, ErrCorrupt, s.file(name, ".json"), err)
	}
	w := &Warmed{Image: r.Image, Path: s.file(name, ".raw"), VirtualSize: r.VirtualSize, Time: r.Time}
	if st, err := os.Stat(w.Path); err != nil || st.Size() != w.VirtualSize {
		return nil, fmt.Errorf("image %q: %w: %s is not the disk of %d bytes that the record speaks of", name, ErrCorrupt, w.Path, w.VirtualSize)
	}
	if r.Image.Kernel != nil {
		w.KernelPath = s.file(name, ".kernel")
	}
	if r.Image.Initrd != nil {
		w.InitrdPath = s.file(name, ".initrd")
	}
	return w, nil
}

// List is all images that are ready, sorted by name.
func (s *Store) List() ([]*Warmed, error) {
	found, err := s.match("", ".json")
	if err != nil {
		return nil, fmt.Errorf("image: store: %w", err)
	}
	var out []*Warmed
	for _, f := range found {
		name := strings.TrimSuffix(filepath.Base(f), ".json")
		if CheckName(name) != nil {
			continue
		}
		w, err := s.Get(name)
		switch {
		case err == nil:
			out = append(out, w)
		case !errors.Is(err, ErrNotFound): // removed meanwhile
			return nil, err
		}
	}
	return out, nil
}

// Remove takes an image, or what there is of it, out of the store. Clones stay.
func (s *Store) Remove(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	return s.locked(ctx, name, func() error {
		_, err := os.Stat(s.file(name, ".json"))
		missing := errors.Is(err, fs.ErrNotExist)
		if err := s.forget(name); err != nil {
			return err
		}
		parts, err := s.removeAll(name + "+")
		if err != nil {
			return err
		}
		if missing && parts == 0 {
			return ErrNotFound
		}
		return nil
	})
}

// forget removes the record first, so that no half of an image is ever ready.
func (s *Store) forget(name string) error {
	for n, suffix := range []string{".json", ".raw", ".kernel", ".initrd"} {
		if err := os.Remove(s.file(name, suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if n == 0 {
			if err := syncDir(s.dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) lockPath(name string) string  { return filepath.Join(s.dir, ".lock+"+name) }
func (s *Store) tmpPrefix(name string) string { return ".tmp+" + name + "+" }

// locked does something while nobody else does anything to the image, after it
// removed what a crash left of earlier doings.
func (s *Store) locked(ctx context.Context, name string, do func() error) (err error) {
	l, err := lock(ctx, s.lockPath(name))
	if err != nil {
		return fmt.Errorf("image %q: %w", name, err)
	}
	defer func() { err = errors.Join(err, l.unlock()) }()
	if err := s.sweep(name); err != nil {
		return fmt.Errorf("image %q: %w", name, err)
	}
	if err := do(); err != nil {
		return fmt.Errorf("image %q: %w", name, err)
	}
	return nil
}

func (s *Store) sweep(name string) error {
	_, err := s.removeAll(s.tmpPrefix(name))
	return err
}

// match is the paths in the store whose names begin and end so, sorted.
func (s *Store) match(prefix, suffix string) (paths []string, err error) {
	entries, err := os.ReadDir(s.dir)
	for _, e := range entries {
		if n := e.Name(); strings.HasPrefix(n, prefix) && strings.HasSuffix(n, suffix) {
			paths = append(paths, filepath.Join(s.dir, n))
		}
	}
	return paths, err
}

func (s *Store) removeAll(prefix string) (removed int, err error) {
	old, err := s.match(prefix, "")
	if err != nil {
		return 0, err
	}
	for _, p := range old {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// Sweep removes what crashes left: temporary files and locks of images that
// nobody is at, and disks without a record. Partial downloads stay, to be gone
// on with.
func (s *Store) Sweep(ctx context.Context) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("image: store: %w", err)
	}
	names := map[string]bool{}
	for _, e := range entries {
		n := e.Name()
		for _, prefix := range []string{".tmp+", ".lock+"} {
			if rest, ok := strings.CutPrefix(n, prefix); ok {
				name, _, _ := strings.Cut(rest, "+")
				names[name] = true
			}
		}
		if base, ok := strings.CutSuffix(n, ".raw"); ok {
			names[base] = true
		}
	}
	for name := range names {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if CheckName(name) != nil {
			continue
		}
		l, err := tryLock(s.lockPath(name))
		if err != nil {
			return fmt.Errorf("image %q: %w", name, err)
		}
		if l == nil {
			continue // somebody is at it
		}
		err = s.sweep(name)
		if _, serr := os.Stat(s.file(name, ".json")); err == nil && errors.Is(serr, fs.ErrNotExist) {
			err = s.forget(name)
		}
		if err := errors.Join(err, l.unlock()); err != nil {
			return fmt.Errorf("image %q: %w", name, err)
		}
	}
	return nil
}

// temp makes a temporary file of an image.
func (s *Store) temp(name string) (*os.File, error) {
	return os.CreateTemp(s.dir, s.tmpPrefix(name))
}

func writeAtomically(path string, mode fs.FileMode, tmp *os.File, write func(io.Writer) error) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name()))
		}
	}()
	if err := write(tmp); err != nil {
		return spaceError(err)
	}
	if err := tmp.Chmod(mode); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return spaceError(err)
	}
	return errors.Join(os.Rename(tmp.Name(), path), tmp.Close())
}
