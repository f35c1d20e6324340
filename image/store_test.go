// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func warmDisk(t *testing.T, s *Store) *Warmed {
	t.Helper()
	w, err := s.Warm(t.Context(), Image{Name: "x", Source: put(t, testDisk())}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestClone(t *testing.T) {
	s := testStore(t, nil)
	w := warmDisk(t, s)
	dir := t.TempDir()
	for _, size := range []int64{0, diskSize, diskSize + 512, 1 << 40} {
		dst := filepath.Join(dir, fmt.Sprint("disk", size))
		if err := w.Clone(t.Context(), dst, size); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(dst)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil || st.Size() != max(size, diskSize) || st.Mode().Perm() != 0o600 {
			t.Errorf("clone of %d: %d bytes, mode %v, %v", size, st.Size(), st.Mode(), err)
		}
		got := make([]byte, diskSize)
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, testDisk()) {
			t.Errorf("clone of %d: another disk: %v", size, err)
		}
		if used, err := allocated(f); err != nil || used > diskSize/2 {
			t.Errorf("clone of %d: %d bytes are on the disk, %v", size, used, err)
		}
		// A clone is its owner's to write, and the image does not change by it.
		if err := os.WriteFile(dst, []byte("changed"), 0o600); err != nil {
			t.Error(err)
		}
	}
	if b, err := os.ReadFile(w.Path); err != nil || !bytes.Equal(b, testDisk()) {
		t.Errorf("the image changed: %v", err)
	}
	if err := w.Clone(t.Context(), filepath.Join(dir, "disk0"), 0); !errors.Is(err, ErrExists) {
		t.Errorf("over another file: %v", err)
	}
	if err := w.Clone(t.Context(), filepath.Join(dir, "small"), diskSize-512); !errors.Is(err, ErrTooSmall) {
		t.Errorf("too small: %v", err)
	}
	if err := w.Clone(t.Context(), filepath.Join(dir, "none", "disk"), 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("into no directory: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Clone(ctx, filepath.Join(dir, "late"), 0); !errors.Is(err, context.Canceled) && err != nil {
		t.Errorf("cancelled: %v", err)
	}
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if strings.HasPrefix(e.Name(), ".") || e.Name() == "small" {
			t.Errorf("left %s", e.Name())
		}
	}
}

func TestCopyTo(t *testing.T) {
	w := warmDisk(t, testStore(t, nil))
	dst, err := os.Create(filepath.Join(t.TempDir(), "zvol"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if err := dst.Truncate(2 * diskSize); err != nil {
		t.Fatal(err)
	}
	if err := w.CopyTo(t.Context(), dst); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 2*diskSize)
	if _, err := dst.ReadAt(got, 0); err != nil || !bytes.Equal(got[:diskSize], testDisk()) || !bytes.Equal(got[diskSize:], make([]byte, diskSize)) {
		t.Errorf("another disk: %v", err)
	}
}

// TestWarmOnce: of many, in several stores on one directory, one fetches.
func TestWarmOnce(t *testing.T) {
	disk := randomDisk(1 << 20)
	srv := &server{content: disk, etag: `"a"`}
	url, dir := serve(t, srv), t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		o := fastOptions()
		s, err := OpenStore(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			wg.Go(func() {
				w, err := warmURL(t.Context(), s, url, sha(disk))
				if err != nil {
					t.Error(err)
					return
				}
				if b, err := os.ReadFile(w.Path); err != nil || !bytes.Equal(b, disk) {
					t.Errorf("another disk: %v", err)
				}
			})
		}
	}
	wg.Wait()
	if requests, _ := srv.seen(); len(requests) != 1 {
		t.Errorf("%d requests", len(requests))
	}
}

// holdLock is the other process of TestAnotherProcessHoldsTheLock.
func holdLock(path string) int {
	if _, err := lock(context.Background(), path); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("locked")
	time.Sleep(time.Minute) // killed long before
	return 1
}

func TestAnotherProcessHoldsTheLock(t *testing.T) {
	s := testStore(t, nil)
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "IMAGE_TEST_LOCK="+s.lockPath("x"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 6)
	if _, err := io.ReadFull(out, said); err != nil || string(said) != "locked" {
		t.Fatalf("%q, %v", said, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	img := Image{Name: "x", Source: put(t, testDisk())}
	if _, err := s.Warm(ctx, img, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it is locked: %v", err)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if _, err := s.Warm(t.Context(), img, nil); err != nil {
		t.Errorf("after its holder was killed: %v", err)
	}
	if left := fmt.Sprint(entries(t, s)); left != "[x.json x.raw]" {
		t.Errorf("the store holds %s", left)
	}
}

func TestWarmAgain(t *testing.T) {
	s := testStore(t, nil)
	src := put(t, testDisk())
	img := Image{Name: "x", Source: src, Checksum: sha(testDisk()), User: "debian"}
	first, err := s.Warm(t.Context(), img, nil)
	if err != nil {
		t.Fatal(err)
	}
	// What is ready is not looked at again, wherever the same bytes are now
	// said to be.
	if err := os.Remove(src); err != nil {
		t.Fatal(err)
	}
	img.Source, img.User = "/nowhere", "admin"
	again, err := s.Warm(t.Context(), img, nil)
	if err != nil || again.User != "admin" || again.Path != first.Path {
		t.Errorf("%+v, %v", again, err)
	}
	// Another checksum is another image. If it cannot be had, the old one stays.
	other := append(testDisk(), make([]byte, 512)...)
	img.Source, img.Checksum = put(t, other), sha(other[1:])
	if _, err := s.Warm(t.Context(), img, nil); !errors.Is(err, ErrChecksum) {
		t.Error(err)
	}
	if w, err := s.Get("x"); err != nil || w.VirtualSize != diskSize {
		t.Errorf("the old image: %+v, %v", w, err)
	}
	img.Checksum = sha(other)
	if w, err := s.Warm(t.Context(), img, nil); err != nil || w.VirtualSize != diskSize+512 {
		t.Errorf("the new image: %+v, %v", w, err)
	}
	list, err := s.List()
	if err != nil || len(list) != 1 || list[0].Name != "x" {
		t.Errorf("%v, %v", list, err)
	}
	if err := s.Remove(t.Context(), "x"); err != nil {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), "x"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.Get("x"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if left := entries(t, s); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestDirectBoot(t *testing.T) {
	disk, kernel, initrd := testDisk(), []byte("kernel"), []byte("initrd")
	srv := &server{content: kernel, etag: `"k"`}
	img := Image{
		Name: "x", Source: put(t, disk), Cmdline: "console=ttyS0",
		Kernel: &File{serve(t, srv), sha(kernel)}, Initrd: &File{Source: put(t, initrd)},
	}
	s := testStore(t, nil)
	w, err := s.Warm(t.Context(), img, nil)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]byte{w.KernelPath: kernel, w.InitrdPath: initrd, w.Path: disk} {
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v", path, err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o444 {
			t.Errorf("%s: mode %v", path, st.Mode())
		}
	}
	bad := testStore(t, nil)
	img.Initrd.Checksum = sha([]byte("another"))
	if _, err := bad.Warm(t.Context(), img, nil); !errors.Is(err, ErrChecksum) {
		t.Error(err)
	}
	img.Initrd = &File{Source: put(t, nil)}
	if _, err := bad.Warm(t.Context(), img, nil); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	if left := entries(t, bad); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// TestAfterACrash: whatever of an image's files is there without its record, or
// the other way round, the image is not ready, and is made so.
func TestAfterACrash(t *testing.T) {
	for _, keep := range [][]string{
		{"x.raw"}, {"x.kernel"}, {"x.json"}, {"x.raw", ".tmp+x+1", ".lock+x"}, {".tmp+x+1", ".tmp+x+2"}, {"x.raw", "x.json", ".lock+x"},
	} {
		s := testStore(t, nil)
		other := warmDisk(t, s)
		if err := os.Rename(s.file("x", ".raw"), s.file("x", ".was")); err != nil {
			t.Fatal(err)
		}
		record, err := os.ReadFile(s.file("x", ".json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Remove(s.file("x", ".was")), os.Remove(s.file("x", ".json"))); err != nil {
			t.Fatal(err)
		}
		for _, name := range keep {
			b := []byte("half")
			if name == "x.json" {
				b = record
			}
			write(t, filepath.Join(s.dir, name), b)
		}
		if _, err := s.Get("x"); err == nil {
			t.Errorf("%v: it is ready", keep)
		}
		if err := s.Sweep(t.Context()); err != nil {
			t.Errorf("%v: %v", keep, err)
		}
		for _, left := range entries(t, s) {
			if strings.HasPrefix(left, ".") {
				t.Errorf("%v: %s is left", keep, left)
			}
		}
		w, err := s.Warm(t.Context(), other.Image, nil)
		wantDisk(t, w, err, testDisk())
		if left := fmt.Sprint(entries(t, s)); left != "[x.json x.raw]" {
			t.Errorf("%v: the store holds %s", keep, left)
		}
	}
}

func TestSweepLeavesWorkInProgress(t *testing.T) {
	s := testStore(t, nil)
	l, err := lock(t.Context(), s.lockPath("x"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(s.dir, ".tmp+x+1"), []byte("in the making"))
	write(t, filepath.Join(s.dir, ".tmp+y+1"), []byte("left"))
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := fmt.Sprint(entries(t, s)); left != "[.lock+x .tmp+x+1]" {
		t.Errorf("the store holds %s", left)
	}
	if err := l.unlock(); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := entries(t, s); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestNoSpace(t *testing.T) {
	disk := testDisk()
	for name, img := range map[string][]byte{
		"raw": disk, "gzip": gzipped(t, disk), "qcow2": fixture(t, "qcow2/v3-c4k.qcow2.gz"), "zlib": fixture(t, "qcow2/v3-zlib.qcow2.gz"),
	} {
		t.Run(name, func(t *testing.T) {
			wantRefused(t, testStore(t, func(o *Options) { o.Limits.Reserve = 1 << 60 }), img, "", ErrNoSpace)
		})
	}
	srv := &server{content: disk}
	s := testStore(t, func(o *Options) { o.Limits.Reserve = 1 << 60 })
	if _, err := warmURL(t.Context(), s, serve(t, srv), sha(disk)); !errors.Is(err, ErrNoSpace) {
		t.Error(err)
	}
	if left := entries(t, s); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	// The system's own limit in the midst of a write.
	if got := spaceError(fmt.Errorf("write: %w", syscall.ENOSPC)); !errors.Is(got, ErrNoSpace) {
		t.Error(got)
	}
}

func TestOddSources(t *testing.T) {
	s := testStore(t, nil)
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]error{
		fifo: ErrRefused, dir: ErrRefused, "/dev/zero": ErrRefused, filepath.Join(dir, "none"): ErrNotFound, "file://" + filepath.Join(dir, "none"): ErrNotFound,
		"ftp://example.org/x": ErrInvalid, "http://": ErrInvalid, "file://host/x": ErrInvalid, "http://example.org/no-checksum": ErrInvalid, "": ErrInvalid, "a\x00b": ErrInvalid,
	} {
		if _, err := s.Warm(t.Context(), Image{Name: "x", Source: source}, nil); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", source, err, want)
		}
	}
	if left := entries(t, s); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	for _, name := range []string{"", "..", "a/b", "A", "a+b", ".a", strings.Repeat("a", 65)} {
		_, err := s.Get(name)
		if errs := []error{err, s.Remove(t.Context(), name), CheckName(name)}; !errors.Is(errs[0], ErrInvalid) || !errors.Is(errs[1], ErrInvalid) || !errors.Is(errs[2], ErrInvalid) {
			t.Errorf("%q: %v", name, errs)
		}
	}
}

// TestProgressCancels: a Warm may be given up at each stage, and leaves nothing.
func TestProgressCancels(t *testing.T) {
	img := gzipped(t, fixture(t, "qcow2/v3-zlib.qcow2.gz"))
	for _, stage := range []Stage{StageWait, StageVerify, StageConvert} {
		s := testStore(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		seen := false
		_, err := s.Warm(ctx, Image{Name: "x", Source: put(t, img), Checksum: sha(img)}, func(p Progress) {
			if p.Stage == stage {
				seen = true
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) || !seen {
			t.Errorf("%s: %v", stage, err)
		}
		if left := entries(t, s); len(left) != 0 {
			t.Errorf("%s: left %v", stage, left)
		}
	}
}
