// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("IMAGE_TEST_LOCK"); path != "" {
		os.Exit(holdLock(path))
	}
	goleak.VerifyTestMain(m)
}

// The images in testdata hold this disk, or its first oddSize bytes; qemu-img
// and xz made them of it.
const (
	diskSize = 1 << 20
	oddSize  = 1000448
)

func testDisk() []byte {
	d := make([]byte, diskSize)
	for n := 0; n < diskSize/4096; n++ {
		if n%5 != 1 && n != 0 && n != 255 {
			continue
		}
		for i := range 4096 {
			d[n*4096+i] = byte((n*31 + i) ^ (i >> 8))
		}
	}
	return d
}

// fixture is a file of testdata, without its .gz.
func fixture(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", path))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(path, ".gz") {
		return b
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func fixtures(t testing.TB, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	for n := range found {
		found[n] = strings.TrimPrefix(found[n], "testdata/")
	}
	return found
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstdded(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

func sha(b []byte) Checksum { return Checksum(fmt.Sprintf("sha256:%x", sha256.Sum256(b))) }

// fastOptions has limits that tests reach, and pauses that they can wait for.
func fastOptions() Options {
	return Options{
		Limits:   Limits{Download: 64 << 20, VirtualSize: 64 << 20, Ratio: 200, RatioFloor: 1 << 20, Reserve: 1},
		Tries:    3,
		RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond, Stall: 5 * time.Second,
	}
}

func testStore(t testing.TB, change func(*Options)) *Store {
	t.Helper()
	o := fastOptions()
	if change != nil {
		change(&o)
	}
	s, err := OpenStore(filepath.Join(t.TempDir(), "store [1]"), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func entries(t testing.TB, s *Store) (names []string) {
	t.Helper()
	all, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

// wantReady warms b and compares the disk.
func wantReady(t *testing.T, b []byte, format Format, want []byte) {
	t.Helper()
	s := testStore(t, nil)
	w, err := s.Warm(t.Context(), Image{Name: "x", Source: put(t, b), Format: format, Checksum: sha(b)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(w.Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the disk is not what it should be (%d bytes, want %d)", len(got), len(want))
	}
	if left := fmt.Sprint(entries(t, s)); left != "[x.json x.raw]" {
		t.Errorf("the store holds %s", left)
	}
	f, err := os.Open(w.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	used, err := allocated(f)
	if err != nil {
		t.Fatal(err)
	}
	if used > int64(len(want))/2 {
		t.Errorf("%d of %d bytes are on the disk: it is not sparse", used, len(want))
	}
}

// wantRefused warms b, and wants the error and an empty store.
func wantRefused(t *testing.T, s *Store, b []byte, format Format, want error) {
	t.Helper()
	w, err := s.Warm(t.Context(), Image{Name: "x", Source: put(t, b), Format: format}, nil)
	if !errors.Is(err, want) || w != nil {
		t.Errorf("%v; want %v", err, want)
	}
	if left := entries(t, s); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestGoodImages(t *testing.T) {
	disk := testDisk()
	for _, path := range fixtures(t, "qcow2/v*.gz") {
		want := disk
		if strings.Contains(path, "odd") {
			want = disk[:oddSize]
			tail := want[1000000:]
			clear(tail)
		}
		img := fixture(t, path)
		t.Run(path, func(t *testing.T) {
			wantReady(t, img, "", want)
			wantReady(t, img, FormatQcow2, want)
			wantReady(t, gzipped(t, img), "", want)
			wantReady(t, zstdded(t, img), "", want)
		})
		disk = testDisk()
	}
	for _, path := range []string{"xz/disk.raw.xz", "xz/disk.qcow2.xz", "xz/two-streams.raw.xz"} {
		t.Run(path, func(t *testing.T) { wantReady(t, fixture(t, path), "", disk) })
	}
	t.Run("raw", func(t *testing.T) {
		wantReady(t, disk, "", disk)
		wantReady(t, disk, FormatRaw, disk)
		wantReady(t, gzipped(t, disk), "", disk)
		wantReady(t, append(gzipped(t, disk[:70000]), gzipped(t, disk[70000:])...), "", disk)
		wantReady(t, zstdded(t, disk), FormatRaw, disk)
		// What is no whole sector is filled up with zeros.
		wantReady(t, disk[:diskSize-100], "", append(append([]byte(nil), disk[:diskSize-100]...), make([]byte, 100)...))
	})
	t.Run("qcow2 as raw", func(t *testing.T) {
		img := fixture(t, "qcow2/v3-prealloc.qcow2.gz")
		s := testStore(t, nil)
		w, err := s.Warm(t.Context(), Image{Name: "x", Source: put(t, img), Format: FormatRaw}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(w.Path); err != nil || !bytes.HasPrefix(got, img) {
			t.Errorf("a disk that is said to be raw was looked into: %v", err)
		}
	})
}

func TestBadImages(t *testing.T) {
	s := testStore(t, nil)
	for _, path := range append(fixtures(t, "qcow2/bad-*"), fixtures(t, "other/*")...) {
		t.Run(path, func(t *testing.T) {
			wantRefused(t, s, fixture(t, path), "", ErrRefused)
			wantRefused(t, s, gzipped(t, fixture(t, path)), "", ErrRefused)
		})
	}
	raw := testDisk()
	for name, c := range map[string]struct {
		img    []byte
		format Format
		want   error
	}{
		"empty":            {nil, "", ErrCorrupt},
		"empty raw":        {nil, FormatRaw, ErrCorrupt},
		"empty compressed": {gzipped(t, nil), "", ErrCorrupt},
		"empty raw zstd":   {zstdded(t, nil), FormatRaw, ErrCorrupt},
		"raw as qcow2":     {raw, FormatQcow2, ErrCorrupt},
		"raw.gz as qcow2":  {gzipped(t, raw), FormatQcow2, ErrCorrupt},
		"twice":            {gzipped(t, gzipped(t, raw)), "", ErrRefused},
		"xz dictionary":    {fixture(t, "xz/bad-dictionary.raw.xz"), "", ErrTooLarge},
		"garbage behind":   {append(gzipped(t, raw), "garbage"...), "", ErrCorrupt},
		"magic alone":      {[]byte("QFI\xfb"), "", ErrCorrupt},
		"gzip magic alone": {[]byte("\x1f\x8b"), "", ErrCorrupt},
		"zstd magic alone": {[]byte("\x28\xb5\x2f\xfd"), "", ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, s, c.img, c.format, c.want) })
	}
}

// TestCutAndFlipped: a compressed image that was cut or changed anywhere is
// refused, or gives the very same disk (some bits of a header mean nothing).
func TestCutAndFlipped(t *testing.T) {
	disk := testDisk()
	for name, img := range map[string][]byte{
		"gzip": gzipped(t, disk), "zstd": zstdded(t, disk), "xz": fixture(t, "xz/disk.raw.xz"),
		"qcow2 in gzip": gzipped(t, fixture(t, "qcow2/v3-c4k.qcow2.gz")), "qcow2 in xz": fixture(t, "xz/disk.qcow2.xz"),
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t, nil)
			step := max(1, len(img)/16)
			for at := 0; at < len(img); at += step {
				wantRefusedOr(t, s, fmt.Sprint("cut at ", at), img[:at], nil)
				flipped := append([]byte(nil), img...)
				flipped[at] ^= 0x10
				wantRefusedOr(t, s, fmt.Sprint("flipped at ", at), flipped, disk)
			}
		})
	}
}

func wantRefusedOr(t *testing.T, s *Store, what string, b, disk []byte) {
	t.Helper()
	w, err := s.Warm(t.Context(), Image{Name: "x", Source: put(t, b), Format: ""}, nil)
	if err == nil {
		got, rerr := os.ReadFile(w.Path)
		if rerr != nil {
			t.Fatal(rerr)
		}
		k, _ := detect(b)
		if !bytes.Equal(got, disk) && k != kindRaw { // the magic itself was flipped
			t.Errorf("%s: another disk came of it", what)
		}
		if err := s.Remove(t.Context(), "x"); err != nil {
			t.Error(err)
		}
		return
	}
	if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrRefused) && !errors.Is(err, ErrTooLarge) {
		t.Errorf("%s: %v", what, err)
	}
	if left := entries(t, s); len(left) != 0 {
		t.Errorf("%s: left %v", what, left)
	}
}
