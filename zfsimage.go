// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/skepvm/skep/zfs"
)

// The images' zvols of a zfsStore. One is of an image's file as it was: of its
// name, size and time, and not of where it is, so that it is the same wherever
// the pool is mounted. A file that is refreshed gets another.

const (
	diskBlock = 16 << 10 // volblocksize: what a guest's file system writes at once, roughly
	copyBlock = 1 << 20
	suffixNew = ".new" // of a zvol that is being filled
)

var imageZvolRule = regexp.MustCompile(`^[0-9a-f]{32}(\.new)?$`)

// imageZvol names the zvol of an image's file. Earlier releases put the whole
// path in place of its name.
func (s *zfsStore) imageZvol(file string, fi fs.FileInfo) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", file, fi.Size(), fi.ModTime().UnixNano()))
	return fmt.Sprintf("%s/%x", s.imageZvols(), sum[:16])
}

// imageSnapshot gives the snapshot of an image's zvol, which is made of the
// image's file when it is first asked for.
func (s *zfsStore) imageSnapshot(ctx context.Context, img warmImage) (string, error) {
	src, err := os.Open(img.disk)
	if err != nil {
		return "", err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return "", err
	}
	file := filepath.Base(img.disk)
	name := s.imageZvol(file, fi)
	snap := name + "@" + snapBase
	if there, err := s.h.Exists(ctx, snap); err != nil || there {
		return snap, err
	}
	unlock, err := s.lockImage(ctx, name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if there, err := s.h.Exists(ctx, snap); err != nil || there {
		return snap, err
	}
	tmp := name + suffixNew
	for _, left := range []string{tmp, name} { // by what was cut
		if err := s.dropImage(ctx, left); err != nil {
			return "", err
		}
	}
	err = s.h.CreateVolume(ctx, tmp, zfs.VolumeOptions{Size: uint64(fi.Size()), BlockSize: diskBlock, Sparse: true, Props: zfs.Props{propSource: file}})
	if err == nil {
		s.fault("created the image's volume")
		err = s.fill(ctx, tmp, src)
	}
	if err == nil {
		err = s.h.CreateSnapshots(ctx, []string{tmp + "@" + snapBase}, nil)
	}
	if err == nil {
		s.fault("filled the image's volume")
		err = retryBusy(ctx, func() error { return s.h.Rename(ctx, tmp, name, false) })
	}
	if err != nil {
		return "", errors.Join(err, s.dropImage(context.WithoutCancel(ctx), tmp))
	}
	return snap, nil
}

// lockImage waits until nobody else makes a zvol, or ctx ends.
func (s *zfsStore) lockImage(ctx context.Context, zvol string) (unlock func(), err error) {
	for {
		s.mu.Lock()
		other := s.making[zvol]
		if other == nil {
			done := make(chan struct{})
			s.making[zvol] = done
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.making, zvol)
				close(done)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// fill copies a file into a volume, without its zeros.
func (s *zfsStore) fill(ctx context.Context, volume string, src io.Reader) (err error) {
	node, err := s.h.WaitVolume(ctx, volume)
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(node, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	buf, zero := make([]byte, copyBlock), make([]byte, copyBlock)
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, rerr := io.ReadFull(src, buf)
		if n > 0 {
			// A device takes whole sectors; the last one is filled up with zeros.
			k := (n + 511) / 512 * 512
			clear(buf[n:k])
			if !slices.Equal(buf[:k], zero[:k]) {
				if _, err := dst.WriteAt(buf[:k], off); err != nil {
					return err
				}
			}
			off += int64(n)
		}
		switch rerr {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return dst.Sync()
		default:
			return rerr
		}
	}
}

// sweepImages destroys the zvols of images that are not whole, and those whose
// image's file is gone or another by now. What has clones stays until a sweep
// after the last of them went, and what is held until a later one.
func (s *zfsStore) sweepImages(ctx context.Context) error {
	source := map[string]string{}
	for d, err := range s.h.Descend(ctx, s.imageZvols(), zfs.Volumes, zfs.Depth(1), zfs.With(propSource)) {
		if err != nil {
			return err
		}
		if imageZvolRule.MatchString(base(d.Name)) {
			source[d.Name] = d.Value(propSource)
		}
	}
	for name, file := range source {
		keep, err := s.keepImage(ctx, name, file)
		if err == nil && !keep {
			err = s.dropImage(ctx, name)
		}
		held := errors.Is(err, zfs.ErrHasClones) || errors.Is(err, zfs.ErrBusy) || errors.Is(err, zfs.ErrHeld)
		if err != nil && !held {
			return err
		}
	}
	return nil
}

// keepImage tells whether an image's zvol is whole and of the image's file as it
// is now. One that an earlier release named is given its name of today.
func (s *zfsStore) keepImage(ctx context.Context, name, source string) (bool, error) {
	if there, err := s.h.Exists(ctx, name+"@"+snapBase); err != nil || !there {
		return false, err
	}
	file := filepath.Base(source)
	fi, err := os.Stat(filepath.Join(s.images(), file))
	if err != nil {
		return false, ignoreNotExist(err)
	}
	now := s.imageZvol(file, fi)
	if name != now && name == s.imageZvol(source, fi) {
		err := retryBusy(ctx, func() error { return s.h.Rename(ctx, name, now, false) })
		if !errors.Is(err, zfs.ErrExists) {
			return true, err
		}
	}
	return name == now, nil
}

// dropImage destroys an image's zvol, if it is there and nothing is a clone of it.
func (s *zfsStore) dropImage(ctx context.Context, name string) error {
	err := retryBusy(ctx, func() error {
		all := zfs.DestroyOptions{Recursive: true}
		plan, err := s.h.PlanDestroy(ctx, name, all)
		if err != nil {
			return err
		}
		if err := s.h.DestroySnapshots(ctx, plan.Snapshots, false); err != nil {
			return err
		}
		s.fault("destroyed the image's snapshot")
		return s.h.Destroy(ctx, name, all)
	})
	if errors.Is(err, zfs.ErrNotFound) {
		return nil
	}
	return err
}
