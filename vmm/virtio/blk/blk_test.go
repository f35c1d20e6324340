// SPDX-License-Identifier: BSD-2-Clause

package blk_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/skepvm/skep/vmm/block"
	"github.com/skepvm/skep/vmm/virtio"
	"github.com/skepvm/skep/vmm/virtio/blk"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

const (
	tIn, tOut, tFlush, tGetID, tDiscard, tZeroes = 0, 1, 4, 8, 11, 13

	ok, ioErr, unsupp = 0, 1, 2
)

func image(t testing.TB, size int64) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(p, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(p, size); err != nil {
		t.Fatal(err)
	}
	return p
}

func open(t testing.TB, path string, ro bool, c blk.Config) *blk.Device {
	t.Helper()
	f, err := block.OpenFile(path, ro)
	if err != nil {
		t.Fatal(err)
	}
	c.Backend = f
	d, err := blk.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func header(kind uint32, sector uint64) []byte {
	b := binary.LittleEndian.AppendUint32(nil, kind)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return binary.LittleEndian.AppendUint64(b, sector)
}

// do sends one request and returns its status.
func do(q *vt.VirtQueue, kind uint32, sector uint64, data ...vt.VirtqDesc) byte {
	q.D.M.TB.Helper()
	st := q.In(1)
	q.D.M.Write(st.Addr, []byte{0xaa})
	descs := append([]vt.VirtqDesc{q.Out(header(kind, sector))}, data...)
	q.Do(append(descs, st)...)
	return q.D.M.Read(st.Addr, 1)[0]
}

func TestReadWrite(t *testing.T) {
	path := image(t, 4<<20)
	m := vt.NewMachine(t, 64<<20, true)
	dev := open(t, path, false, blk.Config{Serial: "serial-1234567890abc", Queues: 2})
	d := vt.Attach(m, dev)
	if got := d.Config64(0); got != 8192 {
		t.Errorf("capacity %d sectors", got)
	}
	qs := d.Start(^uint64(0), 0)
	if len(qs) != 2 {
		t.Fatalf("%d queues", len(qs))
	}
	rnd := rand.NewChaCha8([32]byte{1})
	want := make([]byte, 4<<20)
	rnd.Read(want)
	for i := range 8 { // 512 KiB each, in pieces of odd shape, on both queues
		q, base := qs[i%2], i<<19
		p := want[base : base+1<<19]
		if st := do(q, tOut, uint64(base/512), q.Out(p[:1]), q.Out(p[1:4097]), q.Out(p[4097:])); st != ok {
			t.Fatalf("write: status %d", st)
		}
	}
	if st := do(qs[0], tFlush, 0); st != ok {
		t.Errorf("flush: status %d", st)
	}
	for i := range 64 {
		q, base := qs[i%2], i<<16
		a, b := q.In(1000), q.In(1<<16-1000)
		if st := do(q, tIn, uint64(base/512), a, b); st != ok {
			t.Fatalf("read: status %d", st)
		}
		got := append(m.Read(a.Addr, 1000), m.Read(b.Addr, 1<<16-1000)...)
		if !bytes.Equal(got, want[base:base+1<<16]) {
			t.Fatalf("data differ at %#x", base)
		}
	}
	id := qs[0].In(20)
	if st := do(qs[0], tGetID, 0, id); st != ok || string(m.Read(id.Addr, 20)) != "serial-1234567890abc" {
		t.Errorf("id: status %d, %q", st, m.Read(id.Addr, 20))
	}
	do(qs[0], tIn, 1<<40, qs[0].In(512)) // beyond the end
	if got, want := dev.Counters(), (blk.Counters{Reads: 64, Writes: 8, Flushes: 1, ReadBytes: 4 << 20, WrittenBytes: 4 << 20, Errors: 1}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	onDisk, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(onDisk, want) {
		t.Errorf("file differs (%v)", err)
	}
}

// TestMultiQueue: what the driver is told of the queues (VIRTIO 1.2, section
// 5.2.4), by the specification's own numbers.
func TestMultiQueue(t *testing.T) {
	for _, n := range []int{1, 2, 16} {
		d := vt.Attach(vt.NewMachine(t, 16<<20, true), open(t, image(t, 1<<20), false, blk.Config{Queues: n}))
		if mq := d.Offered()&(1<<12) != 0; mq != (n > 1) {
			t.Errorf("%d queues: VIRTIO_BLK_F_MQ is %v", n, mq)
		}
		if got := binary.LittleEndian.Uint16(d.ReadConfig(34, 2)); int(got) != n {
			t.Errorf("%d queues: num_queues is %d", n, got)
		}
		if got := d.Get(vt.NumQueues); int(got) != n {
			t.Errorf("%d queues: the transport has %d", n, got)
		}
	}
}

func ranges(v ...uint64) []byte { // sector, count, flags
	var b []byte
	for i := 0; i < len(v); i += 3 {
		b = binary.LittleEndian.AppendUint64(b, v[i])
		b = binary.LittleEndian.AppendUint32(b, uint32(v[i+1]))
		b = binary.LittleEndian.AppendUint32(b, uint32(v[i+2]))
	}
	return b
}

func TestDiscardAndZeroes(t *testing.T) {
	path := image(t, 1<<20)
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xee}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	m := vt.NewMachine(t, 16<<20, false)
	d := vt.Attach(m, open(t, path, false, blk.Config{}))
	q := d.Start(^uint64(0), 0)[0]
	for _, c := range []struct {
		kind uint32
		r    []byte
		want byte
	}{
		{tDiscard, ranges(0, 256, 0, 512, 256, 0), ok},
		{tZeroes, ranges(300, 3, 0, 400, 8, 1), ok},
		{tDiscard, ranges(2047, 2, 0), ioErr},
		{tZeroes, ranges(1<<55, 1, 0), ioErr},
		{tZeroes, ranges(^uint64(0), 2, 0), ioErr},
		{tDiscard, ranges(0, 1, 1), unsupp},
		{tZeroes, ranges(0, 1, 2), unsupp},
		{tDiscard, ranges(0, 1, 0)[:15], unsupp},
		{tDiscard, make([]byte, 16*65), unsupp},
		{tDiscard, nil, unsupp},
	} {
		var data []vt.VirtqDesc
		if c.r != nil {
			data = append(data, q.Out(c.r))
		}
		if st := do(q, c.kind, 0, data...); st != c.want {
			t.Errorf("kind %d %x: status %d, want %d", c.kind, c.r, st, c.want)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2048 {
		zero := i >= 300 && i < 303 || i >= 400 && i < 408
		discarded := i < 256 || i >= 512 && i < 768
		if b := got[i*512]; zero && b != 0 || !zero && !discarded && b != 0xee || discarded && b != 0 && b != 0xee {
			t.Errorf("sector %d begins with %#x", i, b)
		}
	}
}

func TestRefusals(t *testing.T) {
	path := image(t, 1<<20)
	m := vt.NewMachine(t, 16<<20, false)
	d := vt.Attach(m, open(t, path, true, blk.Config{}))
	if d.Offered()&(1<<5) == 0 || d.Offered()&(1<<13|1<<14) != 0 {
		t.Errorf("a read-only disk offers %#x", d.Offered())
	}
	q := d.Start(^uint64(0), 0)[0]
	for _, c := range []struct {
		kind   uint32
		sector uint64
		data   []vt.VirtqDesc
		want   byte
	}{
		{tOut, 0, []vt.VirtqDesc{q.Out(make([]byte, 512))}, ioErr},
		{tIn, 2048, []vt.VirtqDesc{q.In(512)}, ioErr},
		{tIn, 2047, []vt.VirtqDesc{q.In(1024)}, ioErr},
		{tIn, ^uint64(0), []vt.VirtqDesc{q.In(512)}, ioErr},
		{tIn, 1 << 55, []vt.VirtqDesc{q.In(512)}, ioErr},
		{tIn, 0, []vt.VirtqDesc{q.In(511)}, ioErr},
		{tIn, 2047, []vt.VirtqDesc{q.In(512)}, ok},
		{tIn, 0, nil, ok},
		{99, 0, nil, unsupp},
		{tDiscard, 0, []vt.VirtqDesc{q.Out(ranges(0, 1, 0))}, unsupp},
		{tZeroes, 0, []vt.VirtqDesc{q.Out(ranges(0, 1, 0))}, unsupp},
		{tFlush, 0, nil, ok},
	} {
		if st := do(q, c.kind, c.sector, c.data...); st != c.want {
			t.Errorf("kind %d sector %d: status %d, want %d", c.kind, c.sector, st, c.want)
		}
	}
}

// Many requests at once, out of order as they may finish, keep to their data.
func TestParallel(t *testing.T) {
	path := image(t, 8<<20)
	for _, features := range []uint64{0, ^uint64(0)} {
		t.Run(fmt.Sprintf("%x", features), func(t *testing.T) {
			m := vt.NewMachine(t, 64<<20, true)
			d := vt.Attach(m, open(t, path, false, blk.Config{}))
			q := d.Start(features, 256)[0]
			type req struct{ data, status vt.VirtqDesc }
			for round := range 4 {
				for _, kind := range []uint32{tOut, tIn} {
					flying := map[uint32]req{}
					for i := range 64 {
						p := bytes.Repeat([]byte{byte(round*64 + i)}, 4096)
						r := req{q.Out(p), q.In(1)}
						if kind == tIn {
							r.data = q.In(4096)
						}
						h := q.Chain(q.Out(header(kind, uint64(i*8))), r.data, r.status)
						flying[uint32(h)] = r
						q.Publish(h)
					}
					q.Kick()
					for range 64 {
						h, _ := q.Wait()
						r, found := flying[h]
						if !found {
							t.Fatalf("chain %d came back twice or was never sent", h)
						}
						delete(flying, h)
						if st := m.Read(r.status.Addr, 1)[0]; st != ok {
							t.Fatalf("status %d", st)
						}
						if kind == tIn {
							p := m.Read(r.data.Addr, 4096)
							if !bytes.Equal(p, bytes.Repeat(p[:1], 4096)) {
								t.Fatal("data of two requests are mixed")
							}
						}
					}
				}
			}
		})
	}
}

// A driver that does not flush gets every write made durable at once.
func TestWriteThrough(t *testing.T) {
	b := &counting{Backend: mustOpen(t, image(t, 1<<20))}
	dev, err := blk.New(blk.Config{Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	m := vt.NewMachine(t, 8<<20, false)
	d := vt.Attach(m, dev)
	q := d.Start(virtio.FeatureVersion1, 0)[0]
	if d.ReadConfig(32, 1)[0] != 0 {
		t.Error("writeback though the driver knows no flush")
	}
	do(q, tOut, 0, q.Out(make([]byte, 512)))
	if b.flushes() != 1 {
		t.Errorf("%d flushes after a write", b.flushes())
	}
	q = d.Start(^uint64(0), 0)[0]
	do(q, tOut, 0, q.Out(make([]byte, 512)))
	if b.flushes() != 1 {
		t.Errorf("%d flushes with a write cache", b.flushes())
	}
	m.Store(d.Device+32, 1, 0)
	do(q, tOut, 0, q.Out(make([]byte, 512)))
	if b.flushes() != 2 {
		t.Errorf("%d flushes after the cache was switched off", b.flushes())
	}
	do(q, tFlush, 0)
	if b.flushes() != 3 {
		t.Errorf("%d flushes after a flush", b.flushes())
	}
}

func mustOpen(t testing.TB, path string) block.Backend {
	t.Helper()
	f, err := block.OpenFile(path, false)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

type counting struct {
	block.Backend
	count atomic.Int32
}

func (c *counting) Flush() error { c.count.Add(1); return c.Backend.Flush() }
func (c *counting) flushes() int { return int(c.count.Load()) }
