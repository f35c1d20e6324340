// SPDX-License-Identifier: BSD-2-Clause

package build

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMachineMirrors(t *testing.T) {
	for name, c := range map[string]struct {
		files            map[string]string
		mirror, security string
	}{
		"none": {nil, defaultMirror, defaultSecurity},
		"one line": {map[string]string{
			"sources.list":              "# deb http://no.example/debian x main\ndeb [signed-by=/k] http://a.example/debian/ bookworm main\ndeb http://a.example/debian-security bookworm-security main\n",
			"sources.list.d/other.list": "deb https://packages.example/apt stable main\n",
		}, "http://a.example/debian", "http://a.example/debian-security"},
		"deb822": {map[string]string{
			"sources.list.d/debian.sources": "Types: deb\nURIs: https://m.example/mirror/debian\nSuites: trixie\n\nTypes: deb\nURIs: https://m.example/debian-security\n",
		}, "https://m.example/mirror/debian", "https://m.example/debian-security"},
	} {
		dir := t.TempDir()
		for f, content := range c.files {
			path := filepath.Join(dir, f)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if m, s := machineMirrors(dir); m != c.mirror || s != c.security {
			t.Errorf("%s: %s, %s; want %s, %s", name, m, s, c.mirror, c.security)
		}
	}
}

func testCache(t *testing.T) *Cache {
	t.Helper()
	t.Setenv(DirEnv, t.TempDir())
	c, err := OpenCache(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestArtifact(t *testing.T) {
	c := testCache(t)
	made := 0
	make := func(_ context.Context, dir string) error {
		made++
		return os.WriteFile(filepath.Join(dir, "file"), []byte(fmt.Sprint(made)), 0o644)
	}
	// What an interrupted build left is in nobody's way.
	if err := os.MkdirAll(filepath.Join(c.dir, ".making-thing/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	first, err := c.artifact(t.Context(), "thing", "one", make)
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.artifact(t.Context(), "thing", "one", make)
	if err != nil || again != first || made != 1 {
		t.Errorf("the same recipe: %s, %v, made %d times", again, err, made)
	}
	other, err := c.artifact(t.Context(), "thing", "two", make)
	if err != nil || other == first || made != 2 {
		t.Errorf("another recipe: %s, %v, made %d times", other, err, made)
	}
	broken := errors.New("broken")
	if _, err := c.artifact(t.Context(), "thing", "three", func(context.Context, string) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a failed build: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(c.dir, ".making-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	old := time.Now().Add(-2 * unused)
	if err := os.Chtimes(first, old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := c.artifact(t.Context(), "thing", "four", make); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(first); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an artifact unused for long is still there: %v", err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("one in use is gone: %v", err)
	}
}

func TestLockIsWaitedFor(t *testing.T) {
	c := testCache(t)
	unlock, err := c.lock(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.lock(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a held lock: %v", err)
	}
	unlock()
	unlock, err = c.lock(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestRun(t *testing.T) {
	c := testCache(t)
	if err := c.run(t.Context(), "failing", command("sh", "-c", "echo why >&2; exit 3")); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("a failure: %v, want what it said", err)
	}
	if err := c.run(t.Context(), "missing", command("no-such-tool-here")); err == nil || !strings.Contains(err.Error(), "make deps") {
		t.Errorf("a missing tool: %v, want what mends it", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if err := c.run(ctx, "long", command("sh", "-c", "sleep 100 & wait")); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 8*time.Second {
		t.Errorf("a cancelled command: %v after %s", err, time.Since(begin))
	}
}

// disk is a disk in memory.
type disk []byte

func (d disk) WriteAt(p []byte, off int64) (int, error) { return copy(d[off:], p), nil }

func TestGPT(t *testing.T) {
	d := make(disk, 8<<20)
	parts := []gptPart{
		{gptEFI, "efi", 1 << 20, 2 << 20},
		{gptUFS, "root", 3 << 20, 4 << 20},
	}
	if err := writeGPT(d, int64(len(d)), parts); err != nil {
		t.Fatal(err)
	}
	if d[510] != 0x55 || d[511] != 0xaa || d[450] != 0xee {
		t.Error("no protective MBR")
	}
	last := len(d)/sector - 1
	for _, at := range []int{1, last} {
		h := d[at*sector : (at+1)*sector]
		if string(h[:8]) != "EFI PART" {
			t.Fatalf("no header in sector %d", at)
		}
		sum := uint32(h[16]) | uint32(h[17])<<8 | uint32(h[18])<<16 | uint32(h[19])<<24
		zeroed := append([]byte(nil), h[:92]...)
		copy(zeroed[16:20], make([]byte, 4))
		if crc32.ChecksumIEEE(zeroed) != sum {
			t.Errorf("sector %d: the header's checksum is wrong", at)
		}
	}
	// C12A7328-... as it lies on disk (UEFI specification, appendix A).
	want := "\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b"
	if got := string(d[2*sector : 2*sector+16]); got != want {
		t.Errorf("type of the first partition: %x", got)
	}
	for name, p := range map[string]gptPart{
		"over the table":    {gptEFI, "x", 512, 1 << 20},
		"past the end":      {gptEFI, "x", 1 << 20, 8 << 20},
		"not whole sectors": {gptEFI, "x", 1<<20 + 1, 1 << 20},
		"bad type":          {"nonsense", "x", 1 << 20, 1 << 20},
	} {
		if err := writeGPT(d, int64(len(d)), []gptPart{p}); err == nil {
			t.Errorf("a partition %s was taken", name)
		}
	}
}

func TestFreeBSDSource(t *testing.T) {
	c := testCache(t)
	t.Setenv(FreeBSDEnv, "")
	if err := c.HasFreeBSD(); !errors.Is(err, ErrNoFreeBSD) {
		t.Errorf("without one: %v", err)
	}
	t.Setenv(FreeBSDEnv, filepath.Join(c.dir, "missing"))
	if err := c.HasFreeBSD(); err == nil || errors.Is(err, ErrNoFreeBSD) {
		t.Errorf("a wrong path: %v, want an error of its own", err)
	}
	image := filepath.Join(c.dir, "image.raw")
	if err := os.WriteFile(image, make([]byte, 4096), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv(FreeBSDEnv, image)
	if f, err := c.FreeBSD(t.Context(), ""); err != nil || !f.Image || f.Disk != image {
		t.Errorf("an image: %+v, %v", f, err)
	}
	t.Setenv(FreeBSDEnv, c.dir)
	if _, err := c.FreeBSD(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "no FreeBSD /boot directory") {
		t.Errorf("a directory of something else: %v", err)
	}
}
