// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/skepvm/skep/zfs/nvlist"
)

// Each benchmark has two runs on one pool, ours and the command's; the ratio
// of their times is what counts.

// tree makes n datasets, a hundred to a parent, and s snapshots of each, by channel programs.
func tree(t testing.TB, h *Handle, p string, n, s int) {
	t.Helper()
	ctx := t.Context()
	for i := range (n + 99) / 100 {
		parent := fmt.Sprintf("%s/p%d", p, i)
		if err := h.CreateFilesystem(ctx, parent, Props{"mountpoint": "none", "skep:group": fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		for j := range min(99, n-100*i-1) {
			if err := h.CreateFilesystem(ctx, fmt.Sprintf("%s/d%d", parent, j), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	for k := range s {
		if _, err := h.CreateSnapshotTree(ctx, p, fmt.Sprintf("snapshot-number-%d", k), nil); err != nil {
			t.Fatal(err)
		}
	}
}

// size is the number in an environment variable, so that the full sizes of the goals can be had.
func size(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return def
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A large pool is listed in memory that does not grow with it.
func TestRealLargeListing(t *testing.T) {
	h := open(t)
	p := testPool(t, h, 8<<30)
	n, s := size("SKEP_DATASETS", 24), size("SKEP_SNAPSHOTS", 4)
	tree(t, h, p, n, s)
	for what, opts := range map[string][]Option{
		"datasets":            {NamesOnly},
		"with properties":     {With("used", "referenced", "mountpoint", "skep:group")},
		"snapshots by name":   {Snapshots, NamesOnly},
		"snapshots and their": {Snapshots, With("used", "creation")},
	} {
		before, peak, count := heap(), uint64(0), 0
		for _, err := range h.Descend(t.Context(), p, opts...) {
			if err != nil {
				t.Fatal(err)
			}
			if count++; count%1000 == 0 {
				peak = max(peak, heap())
			}
		}
		want := n + 1
		if strings.HasPrefix(what, "snap") {
			want *= s
		}
		if count != want || peak > before+16<<20 {
			t.Errorf("%s: %d of %d, %d bytes over %d", what, count, want, peak, before)
		}
	}
	if got := len(lines(tool(t, "zfs", "list", "-H", "-t", "snapshot", "-o", "name", "-s", "name", "-r", p))); got != (n+1)*s {
		t.Errorf("zfs list has %d", got)
	}
}

func BenchmarkClone(b *testing.B) {
	h := open(b)
	p := testPool(b, h, 4<<30)
	if err := h.CreateVolume(b.Context(), p+"/image", VolumeOptions{Size: 1 << 30, Sparse: true, Props: Props{"volmode": "none"}}); err != nil {
		b.Fatal(err)
	}
	i := 0
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			i++
			snap, clone := fmt.Sprintf("%s/image@s%d", p, i), fmt.Sprintf("%s/c%d", p, i)
			if err := h.CreateSnapshots(b.Context(), []string{snap}, nil); err != nil {
				b.Fatal(err)
			}
			if err := h.Clone(b.Context(), snap, clone, Props{"skep:a": "1", "skep:b": "2", "skep:c": "3"}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("zfs", func(b *testing.B) {
		for b.Loop() {
			i++
			snap, clone := fmt.Sprintf("%s/image@s%d", p, i), fmt.Sprintf("%s/c%d", p, i)
			tool(b, "zfs", "snapshot", snap)
			tool(b, "zfs", "clone", snap, clone)
			tool(b, "zfs", "set", "skep:a=1", "skep:b=2", "skep:c=3", clone)
		}
	})
}

func BenchmarkListProperties(b *testing.B) {
	h := open(b)
	p := testPool(b, h, 8<<30)
	n := size("SKEP_DATASETS", 1000)
	tree(b, h, p, n, 0)
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w := io.Discard
			for d, err := range h.Descend(b.Context(), p, With("used", "referenced", "mountpoint", "skep:group")) {
				if err != nil {
					b.Fatal(err)
				}
				fmt.Fprintln(w, d.Name, d.Value("used"), d.Value("referenced"), d.Value("mountpoint"), d.Value("skep:group"))
			}
		}
	})
	b.Run("zfs", func(b *testing.B) {
		for b.Loop() {
			discard(b, "zfs", "list", "-Hp", "-r", "-o", "name,used,referenced,mountpoint,skep:group", p)
		}
	})
}

func BenchmarkListSnapshots(b *testing.B) {
	h := open(b)
	p := testPool(b, h, 8<<30)
	tree(b, h, p, size("SKEP_DATASETS", 200), size("SKEP_SNAPSHOTS", 50))
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for d, err := range h.Descend(b.Context(), p, Snapshots, NamesOnly) {
				if err != nil {
					b.Fatal(err)
				}
				fmt.Fprintln(io.Discard, d.Name)
			}
		}
	})
	b.Run("zfs", func(b *testing.B) {
		for b.Loop() {
			discard(b, "zfs", "list", "-H", "-t", "snapshot", "-o", "name", "-s", "name", "-r", p)
		}
	})
}

func discard(b *testing.B, name string, args ...string) {
	c := exec.Command(name, args...)
	c.Stdout = io.Discard
	if err := c.Run(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkSendReceive(b *testing.B) {
	h := open(b)
	n := int64(size("SKEP_MIB", 128)) * mib
	p := testPool(b, h, 4*n+1<<30)
	if err := h.CreateVolume(b.Context(), p+"/v", VolumeOptions{Size: uint64(n), Sparse: true, BlockSize: 128 << 10, Props: Props{"compression": "off"}}); err != nil {
		b.Fatal(err)
	}
	node, err := h.WaitVolume(b.Context(), p+"/v")
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	block := randomBytes(mib)
	for off := int64(0); off < n; off += mib {
		if _, err := f.WriteAt(block, off); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	if err := h.CreateSnapshots(b.Context(), []string{p + "/v@s"}, nil); err != nil {
		b.Fatal(err)
	}
	clean := func(b *testing.B) {
		b.StopTimer()
		ctx := context.Background()
		for range 50 {
			if err = h.Destroy(ctx, p+"/r", DestroyOptions{Recursive: true}); err == nil {
				break
			}
		}
		if err != nil {
			b.Fatal(err)
		}
		_ = h.Sync(ctx, p)
		b.StartTimer()
	}
	b.Run("ours", func(b *testing.B) {
		b.SetBytes(n)
		for b.Loop() {
			if _, err := h.Copy(b.Context(), p+"/v@s", p+"/r", SendOptions{}, ReceiveOptions{Props: Props{"volmode": "none"}}); err != nil {
				b.Fatal(err)
			}
			clean(b)
		}
	})
	b.Run("zfs", func(b *testing.B) {
		b.SetBytes(n)
		for b.Loop() {
			tool(b, "sh", "-c", fmt.Sprintf("zfs send %s/v@s | zfs receive -o volmode=none %s/r", p, p))
			clean(b)
		}
	})
}

// What a kernel really answers, for the allocations per pair that decoding takes.
func BenchmarkDecodeReply(b *testing.B) {
	h := open(b)
	p := testPool(b, h, 128*mib)
	d, err := h.Get(b.Context(), p)
	if err != nil {
		b.Fatal(err)
	}
	buf, err := d.props.Encode(nvlist.Native)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := nvlist.Decode(buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(d.props.Len()), "pairs")
}
