// SPDX-License-Identifier: BSD-2-Clause

package net_test

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"

	vnet "github.com/skepvm/skep/vmm/virtio/net"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

const (
	maxPieces = 8
	maxGap    = 32
	maxSlots  = 64 // of MaxFrame bytes
)

// guest is one queue as a driver keeps it. Chains come back in order.
type guest struct {
	*round
	q     *vt.VirtQueue
	rnd   *rand.Rand
	queue []*slot // with the device
	descs int     // of the ring, that they have
	sent  uint16  // chains published
	told  uint16  // of these, those that the device was notified of or did not want to be
	quiet bool
}

// slot is memory for a chain: a frame to send or a buffer to fill.
type slot struct {
	at, table uint64
	descs     []vt.VirtqDesc
	indirect  bool
	head      uint16
}

func (r *round) guest(q *vt.VirtQueue) *guest {
	return &guest{round: r, q: q, rnd: rand.New(rand.NewPCG(r.seed[0], r.seed[1]^uint64(q.Index+8)))}
}

// cut splits n bytes from s.at on, with gaps in between.
func (g *guest) cut(s *slot, n int, flags uint16) {
	s.descs = s.descs[:0]
	at := s.at
	for limit := min(maxPieces, g.q.Size/2); n > 0; {
		k := n
		if len(s.descs) < limit-1 && n > 1 && g.rnd.IntN(3) != 0 {
			switch k = 1 + g.rnd.IntN(n-1); g.rnd.IntN(4) {
			case 0:
				k = min(k, 1+g.rnd.IntN(16))
			case 1:
				k = min(k, vnet.HeaderSize)
			}
		}
		s.descs = append(s.descs, vt.VirtqDesc{Addr: at, Len: uint32(k), Flags: flags})
		at += uint64(k + g.rnd.IntN(maxGap))
		n -= k
	}
	s.indirect = g.d.Features&(1<<28) != 0 && g.rnd.IntN(2) == 0
}

// need is how many descriptors of the ring s takes.
func (s *slot) need() int {
	if s.indirect {
		return 1
	}
	return len(s.descs)
}

// publish makes s available. The device is not notified.
func (g *guest) publish(s *slot) {
	if s.indirect {
		s.head = g.q.IndirectChainAt(s.table, s.descs...)
	} else {
		s.head = g.q.Chain(s.descs...)
	}
	g.q.Publish(s.head)
	g.queue = append(g.queue, s)
	g.descs += s.need()
	g.sent++
}

// kick notifies the device of what was published, if it wants to know.
func (g *guest) kick() {
	if g.sent != g.told && g.q.WantsKick(g.told) {
		g.q.Kick()
	}
	g.told = g.sent
}

// used takes the next used entry; with wait it calls idle and waits for it, for
// interrupts only unless they are switched off just then.
func (g *guest) used(idle func()) (s *slot, n int, ok bool) {
	for spins := 0; ; {
		head, n, ok := g.q.Poll()
		switch {
		case ok && (len(g.queue) == 0 || uint32(g.queue[0].head) != head):
			g.fail("queue %d: chain %d came back out of its order", g.q.Index, head)
			return nil, 0, false
		case ok:
			s := g.queue[0]
			g.queue = g.queue[1:]
			g.descs -= s.need()
			if g.rnd.IntN(256) == 0 {
				g.quiet = !g.quiet
				g.q.Quiet(g.quiet)
			}
			return s, int(n), true
		case idle == nil:
			return nil, 0, false
		}
		idle()
		if g.quiet {
			if spins++; spins > 50 {
				g.quiet = false
				g.q.Quiet(false)
			}
			runtime.Gosched()
			continue
		}
		select {
		case <-g.q.IRQ.C:
		case <-g.ctx.Done():
			return nil, 0, false
		}
	}
}

// send has the guest send its frames, in bursts.
func (r *round) send() {
	g := r.guest(r.qs[1])
	s := r.out()
	var free []*slot
	for range min(maxSlots, g.q.Size) {
		free = append(free, &slot{
			at:    r.d.M.Alloc(vnet.MaxFrame+maxPieces*maxGap, 8),
			table: r.d.M.Alloc(16*maxPieces, 16),
		})
	}
	reap := func(idle func()) bool {
		t, n, ok := g.used(idle)
		if ok && n != 0 {
			g.fail("a sent frame came back with %d bytes written", n)
		}
		if ok {
			free = append(free, t)
		}
		return ok
	}
	burst := 0
	for range r.frames {
		s.next()
		for len(free) == 0 {
			if g.kick(); !reap(g.kick) {
				return
			}
		}
		t := free[0]
		g.cut(t, s.len(), 0)
		for g.descs+t.need() > g.q.Size {
			if g.kick(); !reap(g.kick) {
				return
			}
		}
		if !r.outward.try(cost(s.len())) {
			if g.kick(); !r.outward.take(cost(s.len())) {
				return
			}
		}
		free = free[1:]
		off := 0
		for _, d := range t.descs {
			s.read(off, r.memory(d, int(d.Len)))
			off += int(d.Len)
		}
		g.publish(t)
		if burst--; burst > 0 {
			continue
		}
		g.kick()
		for reap(nil) {
		}
		// A wake-up that was lost shows where nothing follows.
		if g.rnd.IntN(8) == 0 && !r.outward.drain() {
			return
		}
		burst = 1 + g.rnd.IntN(1<<g.rnd.IntN(7))
	}
	g.kick()
	for len(g.queue) > 0 {
		if !reap(g.kick) {
			return
		}
	}
	r.sent = *s
}

// memory is the first n bytes of d's.
func (r *round) memory(d vt.VirtqDesc, n int) []byte {
	p, err := r.d.M.Mem.Slice(d.Addr, uint64(min(n, int(d.Len))))
	if err != nil {
		panic(err) // Alloc gave it out
	}
	return p
}

// fill makes the receive buffers: as many as the ring has room for.
func (g *guest) fill() (slots []*slot) {
	total, most := 0, g.q.Size
	if g.buffer == vnet.MaxFrame {
		most = min(most, maxSlots)
	}
	for len(slots) < most {
		s := &slot{at: g.d.M.Alloc(uint64(g.buffer+maxPieces*maxGap), 8), table: g.d.M.Alloc(16*maxPieces, 16)}
		g.cut(s, g.buffer, vt.Write)
		if total += s.need(); total > g.q.Size {
			break
		}
		slots = append(slots, s)
	}
	return slots
}

// receive has the guest take and check its frames. buffers are all that it has:
// the lane's room.
func (r *round) receive(g *guest, buffers []*slot) {
	s := r.in()
	refill := func() {
		for _, t := range buffers {
			g.publish(t)
		}
		n := len(buffers)
		buffers = buffers[:0]
		g.kick()
		r.inward.give(n)
	}
	refill()
	for i := range r.frames {
		s.next()
		off := 0
		for seen, all := 0, 1; seen < all; seen++ {
			t, n, ok := g.used(refill)
			if !ok {
				return
			}
			left := n
			for _, d := range t.descs {
				p := r.memory(d, left)
				for j := off; j < vnet.HeaderSize && j-off < len(p); j++ {
					if j >= vnet.HeaderSize-2 { // num_buffers is the device's
						s.head[j] = p[j-off]
					}
				}
				if !s.equal(off, p) {
					g.fail("to the guest: frame %d of %d bytes differs at %d..%d", i, s.len(), off, off+len(p))
					return
				}
				off, left = off+len(p), left-len(p)
			}
			if all = int(binary.LittleEndian.Uint16(s.head[vnet.HeaderSize-2:])); left != 0 || all != r.buffers(s.len()) {
				g.fail("to the guest: frame %d of %d bytes said to be in %d buffers of %d, of which %d: %d bytes", i, s.len(), all, g.buffer, seen, n)
				return
			}
			buffers = append(buffers, t)
		}
		if off != s.len() {
			g.fail("to the guest: frame %d of %d bytes came with %d", i, s.len(), off)
			return
		}
		r.inward.frames.Add(1)
		if g.rnd.IntN(16) == 0 {
			refill()
		}
	}
	refill()
	r.got = *s
}
