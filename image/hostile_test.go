// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func TestBombs(t *testing.T) {
	zeros := func(n int64) []byte {
		var b bytes.Buffer
		w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeroReader{}, n); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	s := testStore(t, nil)
	t.Run("virtual size", func(t *testing.T) { wantRefused(t, s, zeros(65<<20), "", ErrTooLarge) })
	t.Run("raw size", func(t *testing.T) { wantRefused(t, s, make([]byte, 65<<20), "", ErrTooLarge) })
	t.Run("ratio", func(t *testing.T) {
		wantRefused(t, s, zstdded(t, bytes.Repeat([]byte("skep"), 8<<20)), "", ErrTooLarge)
	})
	t.Run("window", func(t *testing.T) {
		var b bytes.Buffer
		w, err := zstd.NewWriter(&b, zstd.WithWindowSize(256<<20), zstd.WithSingleSegment(false))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(randomDisk(1 << 20)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, s, b.Bytes(), "", ErrTooLarge)
	})
	t.Run("zeros are free", func(t *testing.T) {
		// Compressed 1000 to 1 and more, yet not a byte of it lands on the disk.
		if _, err := s.Warm(t.Context(), Image{Name: "x", Source: put(t, zeros(64<<20))}, nil); err != nil {
			t.Error(err)
		}
	})
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestCraftedQcow2 changes a good image in one place.
func TestCraftedQcow2(t *testing.T) {
	good := fixture(t, "qcow2/v3-c4k.qcow2.gz")
	packed := fixture(t, "qcow2/v3-zlib.qcow2.gz")
	be := binary.BigEndian
	l1 := int(be.Uint64(good[40:]))
	l2 := int(be.Uint64(good[l1:]) & offsetMask)
	pl2 := int(be.Uint64(packed[be.Uint64(packed[40:]):]) & offsetMask)
	type edit = func(b []byte)
	u32 := func(at int, v uint32) edit { return func(b []byte) { be.PutUint32(b[at:], v) } }
	u64 := func(at int, v uint64) edit { return func(b []byte) { be.PutUint64(b[at:], v) } }
	for name, c := range map[string]struct {
		img  []byte
		edit edit
		want error
	}{
		"version 1":           {good, u32(4, 1), ErrRefused},
		"version 4":           {good, u32(4, 4), ErrRefused},
		"backing offset":      {good, u64(8, 200), ErrRefused},
		"backing size alone":  {good, u32(16, 7), ErrRefused},
		"cluster bits 8":      {good, u32(20, 8), ErrCorrupt},
		"cluster bits 22":     {good, u32(20, 22), ErrCorrupt},
		"cluster bits 64":     {good, u32(20, 64), ErrCorrupt},
		"cluster bits max":    {good, u32(20, math.MaxUint32), ErrCorrupt},
		"other cluster bits":  {good, u32(20, 16), ErrCorrupt},
		"no size":             {good, u64(24, 0), ErrCorrupt},
		"size over limit":     {good, u64(24, 64<<20+1), ErrTooLarge},
		"size max":            {good, u64(24, math.MaxUint64), ErrTooLarge},
		"negative size":       {good, u64(24, 1<<63), ErrTooLarge},
		"size beyond the L1":  {good, u64(24, 63<<20), ErrCorrupt},
		"encryption AES":      {good, u32(32, 1), ErrRefused},
		"encryption unknown":  {good, u32(32, 99), ErrRefused},
		"no L1":               {good, u32(36, 0), ErrCorrupt},
		"L1 of 4 Gi":          {good, u32(36, math.MaxUint32), ErrTooLarge},
		"L1 at 0":             {good, u64(40, 0), ErrCorrupt},
		"L1 unaligned":        {good, u64(40, uint64(l1)+8), ErrCorrupt},
		"L1 beyond the end":   {good, u64(40, 1<<40), ErrCorrupt},
		"L1 at the far end":   {good, u64(40, math.MaxUint64&^0xfff), ErrCorrupt},
		"corrupt bit":         {good, u64(72, incompatCorrupt), ErrCorrupt},
		"external bit":        {good, u64(72, incompatExternal), ErrRefused},
		"unknown bit":         {good, u64(72, 1<<40), ErrRefused},
		"header length 0":     {good, u32(100, 0), ErrCorrupt},
		"header length max":   {good, u32(100, math.MaxUint32), ErrCorrupt},
		"header length odd":   {good, u32(100, 105), ErrCorrupt},
		"compression 9":       {good, func(b []byte) { be.PutUint64(b[72:], incompatCompression); b[104] = 9 }, ErrRefused},
		"compression, no bit": {good, func(b []byte) { b[104] = 1 }, ErrCorrupt},
		"external extension":  {good, u32(112, extExternalData), ErrRefused},
		"crypto extension":    {good, u32(112, extCrypto), ErrRefused},
		"endless extensions":  {good, func(b []byte) { fillExtensions(b[112:4096]) }, ErrCorrupt},
		"L2 unaligned":        {good, u64(l1, uint64(l2)+512|1<<63), ErrCorrupt},
		"L2 beyond the end":   {good, u64(l1, 1<<40), ErrCorrupt},
		"L2 twice": {good, func(b []byte) {
			be.PutUint64(b[24:], 4<<20)
			be.PutUint32(b[36:], 2)
			be.PutUint64(b[l1+8:], be.Uint64(b[l1:]))
		}, ErrCorrupt},
		"data unaligned":       {good, u64(l2, 4096*3+512), ErrCorrupt},
		"data beyond the end":  {good, u64(l2, 1<<40), ErrCorrupt},
		"data at the far end":  {good, u64(l2, offsetMask), ErrCorrupt},
		"one cluster for all":  {good, func(b []byte) { oneCluster(b[l2 : l2+8*256]) }, ErrCorrupt},
		"compressed at 0":      {packed, u64(pl2, compressedFlag), ErrCorrupt},
		"compressed beyond":    {packed, u64(pl2, compressedFlag|1<<50), ErrCorrupt},
		"compressed elsewhere": {packed, u64(pl2, compressedFlag|70000), ErrCorrupt},
		"cut in the header":    {good[:50], func([]byte) {}, ErrCorrupt},
		"cut in the v3 header": {good[:90], func([]byte) {}, ErrCorrupt},
		"cut in the data":      {good[:len(good)-4096], func([]byte) {}, ErrCorrupt},
		"cut before the L1":    {good[:l1], func([]byte) {}, ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			img := bytes.Clone(c.img)
			c.edit(img)
			wantRefused(t, testStore(t, nil), img, FormatQcow2, c.want)
		})
	}
}

func fillExtensions(b []byte) {
	for at := 0; at+8 <= len(b); at += 8 {
		binary.BigEndian.PutUint32(b[at:], 0x12345678)
		binary.BigEndian.PutUint32(b[at+4:], 0)
	}
}

func oneCluster(table []byte) {
	for at := 0; at < len(table); at += 8 {
		binary.BigEndian.PutUint64(table[at:], 4096*5|1<<63)
	}
}

// TestErrorsAreShort: an error goes to a client and a log.
func TestErrorsAreShort(t *testing.T) {
	s := testStore(t, nil)
	_, err := s.Warm(t.Context(), Image{Name: strings.Repeat("x\n", 10000), Source: strings.Repeat("y", 100000), Checksum: Checksum(strings.Repeat("z", 100000))}, nil)
	if err == nil || len(err.Error()) > 2000 {
		t.Errorf("%d bytes of error", len(fmt.Sprint(err)))
	}
}

// FuzzConvert: whatever the bytes, conversion ends, without a panic, with a disk
// within the limits or an error.
func FuzzConvert(f *testing.F) {
	// Seeds are small: a fuzzer that has to carry much is slow.
	f.Add(smallQcow2())
	f.Add(fixture(f, "xz/small.qcow2.xz"))
	f.Add(fixture(f, "qcow2/bad-backing.qcow2.gz")[:512])
	f.Add(fixture(f, "other/vdi.gz")[:512])
	f.Add(testDisk()[:4096])
	f.Add(gzipped(f, smallQcow2()))
	f.Add(zstdded(f, smallQcow2()))
	dir := f.TempDir()
	conv := converter{
		limits: Limits{VirtualSize: 8 << 20, Ratio: 200, RatioFloor: 1 << 20},
		space:  func(string, int64) error { return nil },
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		temp := func() (*os.File, error) { return os.CreateTemp(dir, "fuzz") }
		open := func() *os.File {
			x, err := temp()
			if err != nil {
				t.Fatal(err)
			}
			return x
		}
		src, out := open(), open()
		defer func() {
			for _, x := range []*os.File{src, out} {
				x.Close()
				os.Remove(x.Name())
			}
		}()
		if _, err := src.Write(b); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		err := conv.convert(t.Context(), src, out, "", temp, func(int64, int64) {})
		if d := time.Since(begin); d > 20*time.Second {
			t.Errorf("it took %v", d)
		}
		st, serr := out.Stat()
		if serr != nil {
			t.Fatal(serr)
		}
		if st.Size() > conv.limits.VirtualSize+sectorSize || err == nil && st.Size()%sectorSize != 0 {
			t.Errorf("a disk of %d bytes (%v)", st.Size(), err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
			t.Errorf("%d temporary files are left, %v", len(left)-2, err)
		}
	})
}

// smallQcow2 is an image of 2 KiB with clusters of 512 bytes, small enough for a
// fuzzer to find its way around.
func smallQcow2() []byte {
	b := make([]byte, 6*512)
	be := binary.BigEndian
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 9)
	be.PutUint64(b[24:], 2048)
	be.PutUint32(b[36:], 1)
	be.PutUint64(b[40:], 512)
	be.PutUint32(b[96:], 4)
	be.PutUint32(b[100:], 104)
	be.PutUint64(b[512:], 1024|1<<63)
	be.PutUint64(b[1024:], 1536|1<<63)
	be.PutUint64(b[1024+8:], 1)
	be.PutUint64(b[1024+16:], 2048|1<<63)
	copy(b[1536:], "data")
	copy(b[2048:], "more data")
	return b
}

func TestSmallQcow2(t *testing.T) {
	want := make([]byte, 2048)
	copy(want, "data")
	copy(want[1024:], "more data")
	s := testStore(t, nil)
	w, err := s.Warm(t.Context(), Image{Name: "x", Source: put(t, smallQcow2())}, nil)
	wantDisk(t, w, err, want)
}

// FuzzDetect: the first bytes alone never stop the host.
func FuzzDetect(f *testing.F) {
	for _, m := range magics {
		f.Add(append(make([]byte, m.at), m.bytes...))
	}
	f.Add([]byte("  <!DoCtYpE html>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := detect(b)
		if (k == "") != (err != nil) {
			t.Errorf("%q, %v", k, err)
		}
	})
}

// FuzzCatalogue: what is read is checked, and found by each of its names.
func FuzzCatalogue(f *testing.F) {
	f.Add([]byte(catalogueYAML))
	f.Add([]byte(`{"images":[{"name":"a","source":"b"}]}`))
	f.Add([]byte("images: &a [*a]"))
	f.Add([]byte("images:\n- name: a\n  source: [x]\n  min_disk: 99999999999999999999t\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ReadCatalogue(bytes.NewReader(b), "/d")
		if err != nil {
			return
		}
		for _, i := range c.Images() {
			if err := i.Check(); err != nil {
				t.Error(err)
			}
			if got, err := c.Lookup(i.Name); err != nil || got.Name != i.Name {
				t.Errorf("%q: %v", i.Name, err)
			}
		}
	})
}
