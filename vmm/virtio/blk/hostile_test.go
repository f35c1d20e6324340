// SPDX-License-Identifier: BSD-2-Clause

package blk_test

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/skepvm/skep/vmm/block"
	"github.com/skepvm/skep/vmm/virtio"
	"github.com/skepvm/skep/vmm/virtio/blk"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

// memory is a backend without a file, for fuzzing at speed.
type memory struct {
	mu sync.Mutex
	b  []byte
}

func (m *memory) Geometry() block.Geometry {
	return block.Geometry{Size: int64(len(m.b)), Logical: 512, Physical: 4096, Discard: true, Zero: true}
}

func (m *memory) ReadV(bufs [][]byte, off int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range bufs {
		off += int64(copy(p, m.b[off:]))
	}
	return nil
}

func (m *memory) TryReadV([][]byte, int64) error { return block.ErrWouldBlock }

func (m *memory) WriteV(bufs [][]byte, off int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range bufs {
		off += int64(copy(m.b[off:], p))
	}
	return nil
}

func (m *memory) Flush() error               { return nil }
func (m *memory) Discard(off, n int64) error { return m.WriteZeroes(off, n, true) }
func (m *memory) Close() error               { return nil }

func (m *memory) WriteZeroes(off, n int64, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.b[off : off+n])
	return nil
}

// weighed counts the bytes that are asked of a backend.
type weighed struct {
	block.Backend
	n *atomic.Uint64
}

func (w weighed) count(bufs [][]byte) {
	n := uint64(1)
	for _, p := range bufs {
		n += uint64(len(p))
	}
	w.n.Add(n)
}

func (w weighed) ReadV(bufs [][]byte, off int64) error {
	w.count(bufs)
	return w.Backend.ReadV(bufs, off)
}
func (w weighed) WriteV(bufs [][]byte, off int64) error {
	w.count(bufs)
	return w.Backend.WriteV(bufs, off)
}
func (w weighed) Flush() error { w.count(nil); return w.Backend.Flush() }
func (w weighed) Discard(off, n int64) error {
	w.n.Add(uint64(n) + 1)
	return w.Backend.Discard(off, n)
}

func (w weighed) TryReadV(bufs [][]byte, off int64) error {
	w.count(bufs)
	return w.Backend.TryReadV(bufs, off)
}

func (w weighed) WriteZeroes(off, n int64, unmap bool) error {
	w.n.Add(uint64(n) + 1)
	return w.Backend.WriteZeroes(off, n, unmap)
}

func probe(d *vt.Driver, qs []*vt.VirtQueue) {
	for i, q := range qs {
		want := bytes.Repeat([]byte{byte(i) + 1, 2, 3, 4}, 128)
		if st := do(q, tOut, 8, q.Out(want)); st != ok {
			d.M.TB.Errorf("queue %d: write: status %d", i, st)
		}
		in := q.In(512)
		if st := do(q, tIn, 8, in); st != ok || !bytes.Equal(d.M.Read(in.Addr, 512), want) {
			d.M.TB.Errorf("queue %d: read: status %d", i, st)
		}
	}
}

// words are headers and ranges, every other one beyond the disk or unknown.
func words(sectors uint64) (all [][]byte) {
	for _, kind := range []uint32{tIn, tOut, tFlush, tGetID, tDiscard, tZeroes, tDiscard, tZeroes} {
		all = append(all, header(kind, 0), header(kind, sectors))
		all = append(all, ranges(8, 1, 0), ranges(8, 1<<22, 0))
		all = append(all, ranges(sectors-1, 1, 1), ranges(1<<40, 1, 1))
	}
	return append(all, header(99, 0), header(tIn, ^uint64(0)), ranges(1<<55-1, 1<<32-1, 0))
}

func TestHostile(t *testing.T) {
	for name, b := range map[string]func(testing.TB) block.Backend{
		"file":   func(tb testing.TB) block.Backend { return mustOpen(tb, image(tb, 1<<20)) },
		"memory": func(testing.TB) block.Backend { return &memory{b: make([]byte, 1<<20)} },
	} {
		t.Run(name, func(t *testing.T) {
			n := new(atomic.Uint64)
			vt.Hostile(t, vt.Subject{
				Work: n,
				// The whole disk, once. A read may be tried before, and a write
				// flushed; each of a discard's ranges counts one more.
				Entry: 2*(1<<20+1) + 64,
				Words: words(1 << 20 / 512),
				Heavy: func(q *vt.VirtQueue) []vt.VirtqDesc {
					var all []uint64
					for i := range uint64(64) {
						all = append(all, i*32, 32, 0)
					}
					return []vt.VirtqDesc{q.Out(append(header(tZeroes, 0), ranges(all...)...)), q.In(1)}
				},
				New: func(tb testing.TB) (virtio.Device, func()) {
					dev, err := blk.New(blk.Config{Backend: weighed{b(tb), n}, Queues: 2})
					if err != nil {
						tb.Fatal(err)
					}
					return dev, nil
				},
				Probe: probe,
			})
		})
	}
}

func FuzzBlk(f *testing.F) {
	const size = 64 << 10
	n := new(atomic.Uint64)
	vt.Fuzz(f, vt.Subject{
		Work:  n,
		Entry: 2*(size+1) + 64,
		New: func(tb testing.TB) (virtio.Device, func()) {
			dev, err := blk.New(blk.Config{Backend: weighed{&memory{b: make([]byte, size)}, n}, Queues: 2})
			if err != nil {
				tb.Fatal(err)
			}
			return dev, nil
		},
		Probe: probe,
	})
}

// FuzzRequest sends one request whose header and data are the fuzzer's.
func FuzzRequest(f *testing.F) {
	f.Add(header(tIn, 0), uint16(512), uint16(0))
	f.Add(append(header(tOut, 1), make([]byte, 512)...), uint16(0), uint16(5))
	f.Add(append(header(tDiscard, 0), ranges(0, 8, 0)...), uint16(0), uint16(1))
	f.Add(append(header(tZeroes, 0), ranges(127, 1, 1, 3, 1<<22, 0)...), uint16(0), uint16(16))
	f.Add(header(tGetID, 0), uint16(20), uint16(15))
	f.Add(header(tFlush, ^uint64(0)), uint16(3), uint16(0))
	f.Fuzz(func(t *testing.T, out []byte, in, cut uint16) {
		const size = 64 << 10
		back := &memory{b: bytes.Repeat([]byte{7}, size)}
		dev, err := blk.New(blk.Config{Backend: back})
		if err != nil {
			t.Fatal(err)
		}
		if len(out) > 1<<16 {
			return
		}
		d := vt.Attach(vt.NewMachine(t, 4<<20, true), dev)
		q := d.Start(^uint64(0), 0)[0]
		k := min(int(cut), len(out))
		st := q.In(int(in) + 1)
		d.M.Write(st.Addr+uint64(in), []byte{0xaa})
		head := q.Chain(q.Out(out[:k]), q.Out(out[k:]), st)
		q.Send(head)
		if len(out) < 16 {
			d.NeedsReset()
		} else {
			_, n := q.Wait()
			if n > uint32(in)+1 || n == 0 {
				t.Errorf("%d bytes written of %d", n, in+1)
			}
			if s := d.M.Read(st.Addr+uint64(in), 1)[0]; s > unsupp {
				t.Errorf("status %#x", s)
			}
		}
		d.Reset()
		probe(d, d.Start(^uint64(0), 0))
	})
}
