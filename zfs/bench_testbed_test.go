// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/skepvm/skep/zfs/nvlist"
)

// Each benchmark has two runs on one pool, ours and the command's; the ratio
// of their times is what counts.

// makeTree makes n datasets below p, a hundred to a parent, and s snapshots of each
// and of p. All but the parents are clones of the first parent, which the pool
// makes with far less work, and what is made side by side shares transaction groups.
func makeTree(t testing.TB, h *Handle, p string, n, s int) {
	t.Helper()
	var parents, leaves []string
	for i := range (n + 99) / 100 {
		parents = append(parents, fmt.Sprintf("%s/p%d", p, i))
		for j := range min(99, n-100*i-1) {
			leaves = append(leaves, fmt.Sprintf("%s/p%d/d%d", p, i, j))
		}
	}
	atOnce(t, parents, func(name string) error {
		return h.CreateFilesystem(t.Context(), name, Props{"mountpoint": "none", "skep:group": name})
	})
	origin := parents[0] + "@origin"
	if err := h.CreateSnapshots(t.Context(), []string{origin}, nil); err != nil {
		t.Fatal(err)
	}
	atOnce(t, leaves, func(name string) error { return h.Clone(t.Context(), origin, name, nil) })
	for k := range s {
		if _, err := h.CreateSnapshotTree(t.Context(), p, fmt.Sprintf("snapshot-number-%d", k), nil); err != nil {
			t.Fatal(err)
		}
	}
}

// atOnce does something for every name, many of them at a time.
func atOnce(t testing.TB, names []string, do func(string) error) {
	t.Helper()
	var wg sync.WaitGroup
	next := make(chan string)
	for range 64 {
		wg.Go(func() {
			for n := range next {
				if err := do(n); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, n := range names {
		next <- n
	}
	close(next)
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// size is what the environment variable name says, else the whole size of the
// goal with SKEP_SOAK, else a small one, as emulation takes a tenth of a second for some requests.
func size(name string, small, whole int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	if os.Getenv("SKEP_SOAK") != "" {
		return whole
	}
	return small
}

// treeSize is how many datasets a pool for listings has, and how many snapshots each of them.
func treeSize() (datasets, snapshots int) {
	return size("SKEP_DATASETS", 50, 10_000), size("SKEP_SNAPSHOTS", 10, 10)
}

// makeLarge makes a pool as a host has one that keeps years of snapshots: n
// datasets below p, the parents mounted file systems, each with its share of s
// snapshots for each dataset, and their children volumes.
func makeLarge(t *testing.T, h *Handle, p string, n, s int) (parents []string) {
	t.Helper()
	const each = 25 // datasets to a parent
	var leaves []string
	for i := range n / each {
		parents = append(parents, fmt.Sprintf("%s/p%d", p, i))
		for j := range each - 1 {
			leaves = append(leaves, fmt.Sprintf("%s/p%d/d%d", p, i, j))
		}
	}
	atOnce(t, parents, func(name string) error {
		if err := h.CreateFilesystem(t.Context(), name, Props{"skep:group": name, "volmode": "none"}); err != nil {
			return err
		}
		return h.Mount(t.Context(), name, MountOptions{})
	})
	if err := h.CreateVolume(t.Context(), leaves[0], VolumeOptions{Size: 1 << 30, Sparse: true}); err != nil {
		t.Fatal(err)
	}
	origin := leaves[0] + "@origin"
	if err := h.CreateSnapshots(t.Context(), []string{origin}, nil); err != nil {
		t.Fatal(err)
	}
	atOnce(t, leaves[1:], func(name string) error { return h.Clone(t.Context(), origin, name, nil) })
	for k := range n * s / len(parents) {
		snaps := make([]string, len(parents))
		for i, p := range parents {
			snaps[i] = fmt.Sprintf("%s@snapshot-number-%d", p, k)
		}
		if err := h.CreateSnapshots(t.Context(), snaps, nil); err != nil {
			t.Fatal(err)
		}
	}
	return parents
}

// A large pool is listed in memory that does not grow with it: TestListingMemory
// has the whole size of the goal, this one a real kernel's answers.
func TestRealLargeListing(t *testing.T) {
	h := open(t)
	p := testPool(t, h, 8<<30)
	n, s := size("SKEP_DATASETS", 50, 10_000), size("SKEP_SNAPSHOTS", 4, 10)
	since := time.Now()
	took := func(what string) {
		t.Logf("%s: %.1f s", what, time.Since(since).Seconds())
		since = time.Now()
	}
	parents := makeLarge(t, h, p, n, s) // one snapshot more: the volumes' origin
	took(fmt.Sprintf("%d datasets, %d snapshots made", n, n*s))
	for _, l := range []struct {
		what string
		root string
		want int
		opts []Option
		tool []string // that lists the same
	}{
		{"names", p, n + 1, []Option{NamesOnly}, nil},
		{"four properties", p, n + 1, []Option{With("used", "referenced", "mountpoint", "skep:group")}, []string{"-o", "name,used,referenced,mountpoint,skep:group", p}},
		{"names of snapshots", p, n*s + 1, []Option{Snapshots, NamesOnly}, []string{"-t", "snapshot", "-o", "name", "-s", "name", p}},
		{"snapshots with two properties", parents[0], n * s / len(parents), []Option{Snapshots, Depth(0), With("used", "creation")}, nil},
	} {
		since = time.Now()
		count, growth := grows(t, h, l.root, l.want, 5, l.opts...)
		took(fmt.Sprintf("%s: %d, the heap grew by %d KiB", l.what, count, growth>>10))
		if count != l.want || growth > listingBound {
			t.Errorf("%s: %d of %d, the heap grew by %d bytes", l.what, count, l.want, growth)
		}
		if l.tool == nil || !oracle(t) {
			continue
		}
		since = time.Now()
		c := exec.Command("zfs", append([]string{"list", "-H", "-r"}, l.tool...)...)
		var out lineCount
		c.Stdout = &out
		if err := c.Run(); err != nil {
			t.Fatal(err)
		}
		took(fmt.Sprintf("%s: zfs list, %d MiB resident", l.what, c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss>>10))
		if int(out) != l.want {
			t.Errorf("zfs list has %d", out)
		}
	}
}

// lineCount counts lines.
type lineCount int

func (c *lineCount) Write(p []byte) (int, error) {
	*c += lineCount(bytes.Count(p, []byte("\n")))
	return len(p), nil
}

// A snapshot, a clone of it and three properties cost the command three
// transaction groups and its start as often. Before 2.4 ours waits for as many,
// and from then on for one; side by side they share groups as well.
func BenchmarkClone(b *testing.B) {
	h := open(b)
	p := testPool(b, h, 4<<30)
	const images = 8
	for i := range images {
		image := fmt.Sprintf("%s/image%d", p, i)
		if err := h.CreateVolume(b.Context(), image, VolumeOptions{Size: 1 << 30, Sparse: true, Props: Props{"volmode": "none"}}); err != nil {
			b.Fatal(err)
		}
	}
	var n atomic.Int64
	names := func() (snap, clone string) {
		i := n.Add(1)
		return fmt.Sprintf("%s/image%d@s%d", p, i%images, i), fmt.Sprintf("%s/c%d", p, i)
	}
	ours := func() error {
		snap, clone := names()
		return h.SnapshotAndClone(b.Context(), snap, clone, Props{"skep:a": "1", "skep:b": "2", "skep:c": "3"})
	}
	theirs := func() error {
		snap, clone := names()
		for _, args := range [][]string{{"snapshot", snap}, {"clone", snap, clone}, {"set", "skep:a=1", "skep:b=2", "skep:c=3", clone}} {
			if _, err := toolErr("zfs", args...); err != nil {
				return err
			}
		}
		return nil
	}
	for _, side := range []struct {
		name string
		do   func() error
	}{{"ours", ours}, {"zfs", theirs}} {
		b.Run("one by one/"+side.name, func(b *testing.B) {
			for b.Loop() {
				if err := side.do(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("eight at a time/"+side.name, func(b *testing.B) {
			b.SetParallelism((images + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := side.do(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkListProperties(b *testing.B) {
	h := open(b)
	p := testPool(b, h, 8<<30)
	n, _ := treeSize()
	makeTree(b, h, p, n, 0)
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
	n, s := treeSize()
	makeTree(b, h, p, n, s)
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
	n := int64(size("SKEP_MIB", 64, 1024)) * mib
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
			send, recv := exec.Command("zfs", "send", p+"/v@s"), exec.Command("zfs", "receive", "-o", "volmode=none", p+"/r")
			r, w, err := os.Pipe()
			if err != nil {
				b.Fatal(err)
			}
			send.Stdout, recv.Stdin = w, r
			err = errors.Join(send.Start(), recv.Start(), w.Close(), r.Close())
			if err = errors.Join(err, send.Wait(), recv.Wait()); err != nil {
				b.Fatal(err)
			}
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
	decode := func() {
		if _, err := nvlist.Decode(buf); err != nil {
			b.Fatal(err)
		}
	}
	pairs := d.props.Len()
	for _, v := range d.props.All() {
		pairs += v.List().Len()
	}
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		decode()
	}
	b.ReportMetric(float64(pairs), "pairs")
	b.ReportMetric(testing.AllocsPerRun(10, decode)/float64(pairs), "allocs/pair")
}
