// SPDX-License-Identifier: BSD-2-Clause

package net

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/skepvm/skep/vmm/virtio"
)

const (
	// burst is how many frames are received before the guest is told.
	burst = 64
	// maxHeld bounds the chains taken ahead of frames: 64 KiB in buffers of
	// 1.5 KiB, as Linux gives them.
	maxHeld = 48
	// maxVectors is IOV_MAX less the spare.
	maxVectors = 1023
)

// receiver fills the guest's receive buffers. It takes buffers ahead, for the
// largest frame, and offers them to readv together with a spare buffer of our
// own: so a frame that is larger than what was taken ahead is not cut, and its
// rest is copied to buffers that the guest may have given since.
type receiver struct {
	d *Device
	q *virtio.Queue

	held  [maxHeld]virtio.Chain // taken from the queue, in order
	n     int                   // how many are held
	room  uint64                // bytes in them
	segs  int
	bufs  [][]byte
	spare []byte

	extra []piece // chains filled from spare
	scrap virtio.Chain
}

// piece is a chain that is filled but not pushed.
type piece struct {
	head uint16
	n    uint32
}

func newReceiver(d *Device, q *virtio.Queue) *receiver {
	return &receiver{d: d, q: q, spare: make([]byte, MaxFrame), bufs: make([][]byte, 0, 64)}
}

func (r *receiver) run() {
	// Chains that hold no frame yet go back: after a pause they are taken again.
	defer func() { r.q.Return(r.n) }()
	left := burst
	for !r.q.Stopping() {
		if !r.fill() {
			r.q.Interrupt()
			if !r.q.Wait() {
				return
			}
			continue
		}
		n, err := r.d.backend.ReadV(r.bufs, false)
		if errors.Is(err, ErrAgain) {
			r.q.Interrupt()
			left = burst
			n, err = r.d.backend.ReadV(r.bufs, true)
		}
		switch {
		case errors.Is(err, ErrAgain):
			continue // interrupted: Stopping knows
		case err != nil:
			r.q.Fail(fmt.Errorf("virtio net: receive: %w", err))
			return
		}
		if !r.deliver(n) {
			return
		}
		if left--; left == 0 {
			r.q.Interrupt()
			left = burst
		}
	}
	r.q.Interrupt()
}

// fill takes buffers for one frame of the largest size as far as there are any.
// It answers false when there is none.
func (r *receiver) fill() bool {
	limit := 1
	if r.d.merge.Load() {
		limit = maxHeld
	}
	changed := len(r.bufs) == 0
	for r.n < limit && r.room < MaxFrame && r.segs < maxVectors {
		c := &r.held[r.n]
		if !r.q.Pop(c) {
			break
		}
		if c.InLen < HeaderSize || len(c.Out) != 0 || len(c.In) > maxVectors {
			r.q.Fail(fmt.Errorf("%w: receive buffer of %d bytes in %d pieces", virtio.ErrProtocol, c.InLen, len(c.In)))
			return false
		}
		if r.segs+len(c.In) > maxVectors {
			r.q.Return(1)
			break
		}
		r.n, r.room, r.segs, changed = r.n+1, r.room+c.InLen, r.segs+len(c.In), true
	}
	if changed {
		r.bufs = r.bufs[:0]
		for i := range r.n {
			r.bufs = append(r.bufs, r.held[i].In...)
		}
		r.bufs = append(r.bufs, r.spare)
	}
	return r.n > 0
}

// deliver hands the frame of n bytes, which lies in the held buffers and the
// spare, to the guest.
func (r *receiver) deliver(n int) bool {
	if n <= HeaderSize || n > MaxFrame || r.d.down.Load() || uint64(n) > r.room && !r.overflow(r.spare[:uint64(n)-r.room]) {
		r.d.rxDropped.Add(1)
		return r.q.Err() == nil
	}
	r.d.rxFrames.Add(1)
	r.d.rxBytes.Add(uint64(n - HeaderSize))
	used, rest := 0, min(uint64(n), r.room)
	for ; rest > r.held[used].InLen; used++ {
		rest -= r.held[used].InLen
	}
	used++
	var count [2]byte
	binary.LittleEndian.PutUint16(count[:], uint16(used+len(r.extra)))
	if first := r.held[0].In; len(first[0]) >= HeaderSize {
		copy(first[0][HeaderSize-2:], count[:])
	} else {
		patch(first, HeaderSize-2, count[:])
	}
	for i := range used {
		c := &r.held[i]
		written := c.InLen
		if i == used-1 {
			written = rest
		}
		r.q.Push(c, uint32(written))
		r.room -= c.InLen
		r.segs -= len(c.In)
	}
	for _, p := range r.extra {
		r.q.PushHead(p.head, p.n)
	}
	r.extra = r.extra[:0]
	// Swap, so that each chain keeps its storage.
	for i := used; i < r.n; i++ {
		r.held[i-used], r.held[i] = r.held[i], r.held[i-used]
	}
	r.n -= used
	r.bufs = r.bufs[:0]
	return r.q.Err() == nil
}

// overflow copies the end of a frame to further buffers. It answers false, with
// none taken, where the guest has too few.
func (r *receiver) overflow(p []byte) bool {
	r.extra = r.extra[:0]
	for len(p) > 0 {
		// The queue's size bounds this loop: PopRest finds no more than that.
		if !r.d.merge.Load() || len(r.extra) == r.q.Size() || !r.q.PopRest(&r.scrap) {
			r.q.Return(len(r.extra))
			r.extra = r.extra[:0]
			return false
		}
		n := virtio.CopyIn(r.scrap.In, p)
		r.extra = append(r.extra, piece{r.scrap.Head(), uint32(n)})
		p = p[n:]
	}
	return true
}

// patch writes p at offset off of bufs.
func patch(bufs [][]byte, off int, p []byte) {
	for _, b := range bufs {
		if off >= len(b) {
			off -= len(b)
			continue
		}
		p = p[copy(b[off:], p):]
		if off = 0; len(p) == 0 {
			return
		}
	}
}
