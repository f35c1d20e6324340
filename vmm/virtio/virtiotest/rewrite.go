// SPDX-License-Identifier: BSD-2-Clause

package virtiotest

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/virtio"
)

// Shapes of the chains that a rewriter makes.
const (
	shapeAny = iota
	shapeIn
	shapeOut
	shapeCount
)

// rewrite lets a second processor change all that the driver shares with the
// device, while the device reads it.
func (s Subject) rewrite(t *testing.T) {
	d, stir := s.attach(t, 96<<20, true)
	for i := range int(d.Get(NumQueues)) {
		used, lives := uint64(0), 0
		for _, features := range []uint64{0, all} {
			for shape := range shapeCount {
				u, l := s.rewriteQueue(d, stir, i, features, shape)
				used, lives = used+u, lives+l
			}
		}
		t.Logf("queue %d: %d chains came back in %d lives", i, used, lives)
		if used == 0 {
			t.Errorf("queue %d: no chain came back: the device saw nothing but rubbish", i)
		}
	}
	s.again(d)
}

func (s Subject) rewriteQueue(d *Driver, stir func(), i int, features uint64, shape int) (used uint64, lives int) {
	d.M.rewind()
	q := d.Start(features, 0)[i]
	mine := *q // the other processor's: the rings stay where they are
	r := &rewriter{q: &mine, rnd: rand.New(rand.NewPCG(uint64(shape), uint64(i))), words: s.Words, shape: shape,
		pool: d.M.Alloc(poolSize, 4096), table: d.M.Alloc(16*tableSize, 16)}
	for range 500 {
		r.word()
		r.chain()
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for range 64 {
				r.step()
			}
		}
	})
	s.measured(d, func() {
		for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Microsecond) {
			for range 16 {
				// However the index is changed, it shows the device at most a
				// ring's worth.
				d.Entries.Add(uint64(q.Size))
				q.avail = r.available()
				q.Publish(uint16(rand.IntN(q.Size/slotSize) * slotSize))
			}
			q.Kick()
			stir()
			if d.Get(DeviceStatus)&virtio.StatusNeedsReset != 0 {
				used, lives = used+uint64(q.UsedIdx()), lives+1
				d.Reset()
				q = d.Restart(features, q)
			}
		}
		used, lives = used+uint64(q.UsedIdx()), lives+1
	})
	close(stop)
	wg.Wait()
	return used, lives
}

// A rewriter's pool of buffers: words at the start, of which headers and ranges
// are made, then room for data. Its indirect table has tableSize descriptors.
const (
	poolSize  = 64 << 10
	poolWords = 256 // few: each is changed while it is read
	tableSize = 64
	slotSize  = 4 // descriptors; each chain begins in a slot of its own
)

// rewriter is the second processor.
type rewriter struct {
	q           *VirtQueue
	rnd         *rand.Rand
	words       [][]byte
	pool, table uint64
	shape       int
}

func (r *rewriter) n(limit int) uint64 { return r.rnd.Uint64N(uint64(limit)) }

func (r *rewriter) available() uint16 {
	idx, err := r.q.D.M.Mem.LoadU16(r.q.Avail + 2)
	r.q.must(err)
	return idx
}

// step changes one thing, mostly so that the device goes on.
func (r *rewriter) step() {
	q, mem := r.q, r.q.D.M.Mem
	switch n := r.n(1024); {
	case n < 500:
		r.word()
	case n < 900:
		r.chain()
	case n < 950: // used_event
		q.SetUsedEvent(uint16(r.rnd.Uint32()))
	case n < 980: // the available ring's flags
		q.must(mem.StoreU16(q.Avail, uint16(r.n(4))))
	case n < 1010: // an entry of it
		head := uint16(r.n(q.Size/slotSize) * slotSize)
		if r.n(200) == 0 {
			head = uint16(r.rnd.Uint32())
		}
		q.must(mem.StoreU16(q.Avail+4+2*r.n(q.Size), head))
	case n < 1012: // its index
		idx := r.available() + uint16(r.n(4))
		if r.n(100) == 0 {
			idx = uint16(r.rnd.Uint32())
		}
		q.D.Entries.Add(uint64(q.Size))
		q.must(mem.StoreU16(q.Avail+2, idx))
	case n < 1016:
		q.Kick()
	default:
		r.descriptor()
	}
}

// descriptor changes one, in the table or the indirect one.
func (r *rewriter) descriptor() {
	q := r.q
	v := VirtqDesc{r.pool + r.n(poolSize/2), uint32(r.n(poolSize / 4)), uint16(r.n(4)), uint16(r.n(q.Size + 1))}
	switch r.n(40) {
	case 0:
		v.Addr = r.rnd.Uint64()
	case 1:
		v.Len = r.rnd.Uint32()
	case 2:
		v = VirtqDesc{r.table, uint32(16 * r.n(tableSize+6)), Indirect, 0}
	}
	if r.n(3) == 0 {
		q.SetDesc(r.table, int(r.n(tableSize)), v)
	} else {
		q.SetDesc(q.Desc, int(r.n(q.Size)), v)
	}
}

// chain makes one that may be a good request, as long as it stays so.
func (r *rewriter) chain() {
	words := func(flags uint16) VirtqDesc {
		return VirtqDesc{Addr: r.pool + 16*r.n(poolWords/16-8), Len: uint32(16 * (1 + r.n(4)*r.n(2))), Flags: flags}
	}
	data := func(flags uint16) VirtqDesc {
		return VirtqDesc{Addr: r.pool + poolWords + 16*r.n(1024), Len: uint32(512 * (1 + r.n(8))), Flags: flags}
	}
	last := VirtqDesc{Addr: r.pool + poolSize - 16 + r.n(16), Len: 1, Flags: Write}
	head := words(0)
	head.Len = 16
	var descs []VirtqDesc
	switch shape := r.shape; {
	case shape == shapeIn:
		descs = []VirtqDesc{data(Write)}
	case shape == shapeOut:
		descs = []VirtqDesc{head, data(0)}
	case r.n(3) == 0:
		descs = []VirtqDesc{head, data(Write), last}
	case r.n(2) == 0:
		descs = []VirtqDesc{head, data(0), last}
	default:
		descs = []VirtqDesc{head, words(0), last}
	}
	first := int(r.n(r.q.Size/slotSize) * slotSize)
	for i, v := range descs {
		if i < len(descs)-1 {
			v.Flags |= Next
			v.Next = uint16(first + i + 1)
		}
		r.q.SetDesc(r.q.Desc, first+i, v)
	}
}

// word changes what a buffer holds.
func (r *rewriter) word() {
	p := make([]byte, 16)
	for i := range p {
		p[i] = byte(r.rnd.Uint32())
	}
	if len(r.words) > 0 && r.n(8) != 0 {
		p = r.words[r.n(len(r.words))]
	}
	r.q.D.M.Write(r.pool+16*r.n(poolWords/16), p)
}
