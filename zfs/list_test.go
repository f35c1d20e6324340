// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// heap is what is in use after a collection, in bytes. A second one takes what
// others threw away during the first.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// settled is the heap once all that is ahead of its reader waits for him.
func settled() uint64 {
	now := heap()
	for range 50 {
		time.Sleep(10 * time.Millisecond)
		last := now
		if now = heap(); max(now, last)-min(now, last) < 16<<10 {
			break
		}
	}
	return now
}

// listingBound is by how many bytes the heap may grow while a pool is listed, however large that is.
const listingBound = 4 << 20

// grows walks and gives the number of what it saw, and by how much the heap grew at most, looking n times.
func grows(t *testing.T, h *Handle, root string, expect, n int, opts ...Option) (count int, growth uint64) {
	t.Helper()
	before, peak := heap(), uint64(0)
	for d, err := range h.Descend(t.Context(), root, opts...) {
		if err != nil {
			t.Fatal(err)
		}
		if count++; count%max(expect/n, 1) == 0 {
			peak = max(peak, settled())
		}
		runtime.KeepAlive(d)
	}
	return count, peak - min(peak, before)
}

// hugePool answers for a pool of n datasets, a hundred to a parent, with s
// snapshots each, which it makes up as they are asked for.
func hugePool(n, s int) zcmd.Kernel {
	answer := func(name string) ([]byte, error) {
		return nvlist.New(
			nvlist.P("used", nvlist.New(nvlist.P("value", uint64(1)))),
			nvlist.P("creation", nvlist.New(nvlist.P("value", uint64(1)))),
			nvlist.P("prevsnap", nvlist.New(nvlist.P("value", name+"@snapshot"))),
			nvlist.P("filler", nvlist.New(nvlist.P("value", strings.Repeat("x", 4000)), nvlist.P("source", "tank"))),
		).Encode(nvlist.Native)
	}
	return func(op zcmd.Op, c *zcmd.Cmd, _, _, dst []byte) syscall.Errno {
		name := zcmd.String(c.Name[:])
		depth := strings.Count(name, "/")
		i := int(c.Cookie)
		switch op {
		case zcmd.DatasetListNext:
			if depth == 0 && i == n/100 || depth == 1 && i == 99 || depth == 2 {
				return syscall.ESRCH
			}
			zcmd.SetString(c.Name[:], fmt.Sprintf("%s/d%d", name, i))
		case zcmd.SnapshotList:
			if depth == 0 || i == s {
				return syscall.ESRCH
			}
			zcmd.SetString(c.Name[:], fmt.Sprintf("%s@snapshot-%d", name, i))
		}
		c.Cookie++
		c.ObjsetStats.GUID, c.ObjsetStats.Type = 1, objsetFilesystem
		if dst == nil {
			return 0
		}
		reply, err := answer(zcmd.String(c.Name[:]))
		if err != nil || len(dst) < len(reply) {
			return syscall.ENOMEM
		}
		c.NvlistDstSize, c.DstFilled = uint64(copy(dst, reply)), 1
		return 0
	}
}

// A listing holds no more of a large pool than of a small one.
func TestListingMemory(t *testing.T) {
	const datasets, snapshots = 10_000, 10
	h := newHandle(zcmd.Fake(hugePool(datasets, snapshots)), func() (string, error) { return "2.3.2-1", nil })
	for _, tc := range []struct {
		what string
		want int
		opts []Option
	}{
		{"names", datasets + 1, []Option{NamesOnly}},
		{"properties", datasets + 1, []Option{With("used")}},
		{"snapshots", datasets * snapshots, []Option{Snapshots, NamesOnly}},
		{"snapshots and their properties", datasets * snapshots, []Option{Snapshots, With("used", "creation")}},
	} {
		if count, growth := grows(t, h, "tank", tc.want, 20, tc.opts...); count != tc.want || growth > listingBound {
			t.Errorf("%s: %d of %d, the heap grew by %d bytes", tc.what, count, tc.want, growth)
		}
	}
}
