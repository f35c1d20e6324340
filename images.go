// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skepvm/skep/image"
)

// imageSource is the catalogue and the warm images.
type imageSource interface {
	list(ctx context.Context) ([]Image, error)
	// find looks in the catalogue; ErrNotFound.
	find(name string) (Image, error)
	// warm makes an image ready to be cloned.
	warm(ctx context.Context, name string, progress func(done, total int64)) (warmImage, error)
	remove(ctx context.Context, name string) error
}

// imageStore is the real one: the catalogue's file, read again when it changes,
// and a directory of warm images. An image that is warm stays good when the
// catalogue no longer has it.
type imageStore struct {
	store *image.Store
	path  string // of the catalogue; may be empty

	mu    sync.Mutex
	cat   *image.Catalogue
	mtime time.Time
	size  int64
}

func openImages(cfg *resolved, s store) (imageSource, error) {
	st, err := image.OpenStore(s.images(), image.Options{})
	if err != nil {
		return nil, err
	}
	i := &imageStore{store: st, path: cfg.Catalogue}
	// What an earlier process left half-done; one that is at work is left alone.
	if err := st.Sweep(context.Background()); err != nil {
		return nil, err
	}
	if _, err := i.catalogue(); err != nil {
		return nil, err
	}
	return i, nil
}

// catalogue gives the catalogue as its file has it now.
func (s *imageStore) catalogue() (*image.Catalogue, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" {
		if s.cat == nil {
			cat, err := image.NewCatalogue(nil)
			if err != nil {
				return nil, err
			}
			s.cat = cat
		}
		return s.cat, nil
	}
	fi, err := os.Stat(s.path)
	if err != nil {
		return nil, fmt.Errorf("catalogue of images: %w", err)
	}
	if s.cat == nil || fi.Size() != s.size || !fi.ModTime().Equal(s.mtime) {
		cat, err := image.LoadCatalogue(s.path)
		if err != nil {
			return nil, err
		}
		s.cat, s.size, s.mtime = cat, fi.Size(), fi.ModTime()
	}
	return s.cat, nil
}

// lookup finds an entry in the catalogue, or else among the warm images.
func (s *imageStore) lookup(name string) (image.Image, error) {
	cat, err := s.catalogue()
	if err != nil {
		return image.Image{}, err
	}
	i, err := cat.Lookup(name)
	if errors.Is(err, image.ErrNotFound) {
		if image.CheckName(name) != nil {
			return i, fmt.Errorf("image %.64q: %w", name, ErrNotFound)
		}
		w, gerr := s.store.Get(name)
		if gerr == nil {
			return w.Image, nil
		}
		if errors.Is(gerr, image.ErrNotFound) {
			return i, fmt.Errorf("image %q: %w in the catalogue", name, ErrNotFound)
		}
		return i, gerr
	}
	return i, err
}

func (s *imageStore) find(name string) (Image, error) {
	i, err := s.lookup(name)
	if err != nil {
		return Image{}, err
	}
	return s.describe(i), nil
}

func (s *imageStore) describe(i image.Image) Image {
	d := Image{
		Name: i.Name, OS: i.OS, Profile: i.Profile, Description: i.Description, URL: i.Source,
		User: i.User, MinDisk: int64(i.MinDisk), MinMemory: int64(i.MinRAM),
	}
	if w, err := s.store.Get(i.Name); err == nil {
		d.Warm = true
		d.MinDisk = max(d.MinDisk, w.VirtualSize)
	}
	return d
}

func (s *imageStore) list(context.Context) ([]Image, error) {
	cat, err := s.catalogue()
	if err != nil {
		return nil, err
	}
	var all []Image
	for _, i := range cat.Images() {
		all = append(all, s.describe(i))
	}
	warm, err := s.store.List()
	if err != nil {
		return nil, err
	}
	for _, w := range warm {
		if !slices.ContainsFunc(all, func(i Image) bool { return i.Name == w.Name }) {
			all = append(all, s.describe(w.Image))
		}
	}
	slices.SortFunc(all, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func (s *imageStore) warm(ctx context.Context, name string, progress func(done, total int64)) (warmImage, error) {
	i, err := s.lookup(name)
	if err != nil {
		return warmImage{}, err
	}
	w, err := s.store.Warm(ctx, i, func(p image.Progress) {
		if p.What == "disk" && p.Stage != image.StageWait {
			progress(p.Done, max(p.Total, 0))
		}
	})
	if errors.Is(err, image.ErrNoSpace) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	if err != nil {
		return warmImage{}, err
	}
	return warmImage{
		ref:  imageRef{Name: w.Name, OS: w.OS, Profile: w.Profile, User: w.User, Cmdline: w.Cmdline},
		disk: w.Path, kernel: w.KernelPath, initrd: w.InitrdPath, size: w.VirtualSize,
	}, nil
}

func (s *imageStore) remove(ctx context.Context, name string) error {
	i, err := s.lookup(name)
	if err != nil {
		return err
	}
	err = s.store.Remove(ctx, i.Name)
	if errors.Is(err, image.ErrNotFound) {
		return fmt.Errorf("image %q is not warm: %w", name, ErrNotFound)
	}
	return err
}
