// SPDX-License-Identifier: BSD-2-Clause

package blk_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/virtio/blk"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

// TestModel drives a disk as fio's verify does: requests of every kind and many
// sizes, several under way on each of two queues, while the machine is paused
// and resumed again and again. Each queue has a half of the disk, whose bytes
// are kept beside; requests under way never overlap. At the end the file must
// hold what the model says, after a new start of the device.
func TestModel(t *testing.T) {
	const (
		half  = 2 << 20
		depth = 12
		most  = 200 // sectors of one request

		perSlot = 256 / depth // descriptors
	)
	path := image(t, 2*half)
	m := vt.NewMachine(t, 32<<20, true)
	d := vt.Attach(m, open(t, path, false, blk.Config{Queues: 2}))
	qs := d.Start(^uint64(0), 256)
	models := [2][]byte{make([]byte, half), make([]byte, half)}
	var stop atomic.Bool
	var pauses sync.WaitGroup
	pauses.Go(func() {
		for !stop.Load() {
			d.Dev.Pause()
			time.Sleep(time.Millisecond)
			d.Dev.Resume()
			time.Sleep(3 * time.Millisecond)
		}
	})
	var queues sync.WaitGroup
	for k, q := range qs {
		queues.Go(func() {
			rnd := rand.New(rand.NewPCG(11, uint64(k)))
			model := models[k]
			type slot struct {
				hdr, data, status uint64 // guest memory
				kind              uint32
				sector, n         int // in this half
				sent              []byte
			}
			slots := make([]slot, depth)
			var free []int
			for i := range slots {
				slots[i] = slot{hdr: m.Alloc(16, 16), data: m.Alloc(most*512, 512), status: m.Alloc(1, 1)}
				free = append(free, i)
			}
			flying := map[uint32]int{}
			busy := make([]bool, half/512)
			for range 1500 {
				// Take back what is done, at least one when all are under way.
				for len(free) == 0 || len(flying) > 0 && rnd.IntN(3) == 0 {
					h, _ := q.Wait()
					i, found := flying[h]
					if !found {
						t.Errorf("chain %d was never sent", h)
						return
					}
					delete(flying, h)
					free = append(free, i)
					s := &slots[i]
					if st := m.Read(s.status, 1)[0]; st != ok {
						t.Errorf("kind %d sector %d+%d: status %d", s.kind, s.sector, s.n, st)
						return
					}
					at := model[s.sector*512 : (s.sector+s.n)*512]
					switch s.kind {
					case tIn:
						if !bytes.Equal(m.Read(s.data, s.n*512), at) {
							t.Errorf("sector %d+%d differs", s.sector, s.n)
							return
						}
					case tOut:
						copy(at, s.sent)
					case tZeroes, tDiscard:
						clear(at)
					}
					for j := range s.n {
						busy[s.sector+j] = false
					}
				}
				i := free[len(free)-1]
				s := &slots[i]
				// tDiscard is sent as write-zeroes with unmap, whose outcome is known.
				s.kind = []uint32{tIn, tIn, tOut, tOut, tOut, tZeroes, tDiscard, tFlush}[rnd.IntN(8)]
				s.n = 1 + rnd.IntN(1+rnd.IntN(most))
				s.sector = rnd.IntN(half/512 - s.n)
				if s.kind == tFlush {
					s.n = 0
				}
				clash := false
				for j := range s.n {
					clash = clash || busy[s.sector+j]
				}
				if clash {
					continue
				}
				for j := range s.n {
					busy[s.sector+j] = true
				}
				free = free[:len(free)-1]
				sector := uint64(s.sector + k*half/512)
				kind, descs := s.kind, []vt.VirtqDesc{{Addr: s.hdr, Len: 16}}
				dir := uint16(0)
				switch s.kind {
				case tIn:
					dir = vt.Write
				case tOut:
					s.sent = make([]byte, s.n*512)
					for j := range s.sent {
						s.sent[j] = byte(rnd.Uint32())
					}
					m.Write(s.data, s.sent)
				case tZeroes, tDiscard:
					flags := uint64(0)
					if s.kind == tDiscard {
						flags = 1
					}
					kind = tZeroes
					m.Write(s.data, ranges(sector, uint64(s.n), flags))
				}
				if size := uint32(s.n * 512); s.kind == tIn || s.kind == tOut {
					for off := uint32(0); off < size; {
						n := min(size-off, 1+uint32(rnd.IntN(40000)))
						if len(descs) == perSlot-2 {
							n = size - off
						}
						descs = append(descs, vt.VirtqDesc{Addr: s.data + uint64(off), Len: n, Flags: dir})
						off += n
					}
				} else if s.kind != tFlush {
					descs = append(descs, vt.VirtqDesc{Addr: s.data, Len: 16})
				}
				m.Write(s.hdr, header(kind, sector))
				m.Write(s.status, []byte{0xaa})
				descs = append(descs, vt.VirtqDesc{Addr: s.status, Len: 1, Flags: vt.Write})
				// Each slot has descriptors of its own: others come and go meanwhile.
				h := uint16(i * perSlot)
				for j, v := range descs {
					if j < len(descs)-1 {
						v.Flags |= vt.Next
						v.Next = h + uint16(j) + 1
					}
					q.SetDesc(q.Desc, int(h)+j, v)
				}
				flying[uint32(h)] = i
				q.Publish(h)
				if rnd.IntN(4) != 0 || len(free) == 0 {
					q.Kick()
				}
			}
			q.Kick()
			for len(flying) > 0 {
				h, _ := q.Wait()
				s := &slots[flying[h]]
				delete(flying, h)
				at := model[s.sector*512 : (s.sector+s.n)*512]
				switch s.kind {
				case tOut:
					copy(at, s.sent)
				case tZeroes, tDiscard:
					clear(at)
				}
			}
		})
	}
	queues.Wait()
	stop.Store(true)
	pauses.Wait()
	want := append(models[0], models[1]...)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file is not what was written (%v)", err)
	}
	d.Reset()
	q := d.Start(^uint64(0), 0)[0]
	buf := q.In(1 << 20)
	for off := 0; off < len(want); off += 1 << 20 {
		if st := do(q, tIn, uint64(off/512), buf); st != ok || !bytes.Equal(m.Read(buf.Addr, 1<<20), want[off:off+1<<20]) {
			t.Errorf("after a new start %#x differs (status %d)", off, st)
		}
	}
}
