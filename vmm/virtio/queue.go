// SPDX-License-Identifier: BSD-2-Clause

package virtio

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/skepvm/skep/vmm/guestmem"
)

var le = binary.LittleEndian

// Queue is one split virtqueue (VIRTIO 1.2, section 2.7) as the device sees it.
// Pop, PopRest, Return, Requeue and Wait belong to the goroutine that serves it; Push and
// Interrupt may be called from several.
type Queue struct {
	mem      *guestmem.Memory
	index    int
	size     uint16
	maxSegs  int
	desc     uint64
	avail    uint64
	used     uint64
	eventIdx bool
	indirect bool

	kick kicker
	stop atomic.Bool
	irq  func()
	err  atomic.Pointer[error]

	// The serving goroutine's.
	last   uint16   // next entry of the available ring to take
	shadow uint16   // available index when last read
	again  []uint16 // heads that Requeue gave back
	quiet  bool     // the driver has been told not to notify (without event index)

	mu       sync.Mutex
	usedIdx  uint16 // guarded by mu, as are the two below
	signaled uint16 // usedIdx when the driver was last considered for an interrupt
	fresh    bool   // signaled means nothing yet
}

// Index is the queue's number in its device; Size its number of descriptors.
func (q *Queue) Index() int { return q.index }
func (q *Queue) Size() int  { return int(q.size) }

// Stopping says that Serve must finish what it has taken and return.
func (q *Queue) Stopping() bool { return q.stop.Load() }

// Err is what broke the queue, or nil.
func (q *Queue) Err() error {
	if p := q.err.Load(); p != nil {
		return *p
	}
	return nil
}

// Fail stops the queue for what the driver did; the transport will ask the
// driver for a reset. Pop and Wait answer false from now on.
func (q *Queue) Fail(err error) {
	err = fmt.Errorf("queue %d: %w", q.index, err)
	q.err.CompareAndSwap(nil, &err)
	q.stop.Store(true)
	q.kick.ring()
}

// available reads the driver's index, once, and says how many entries wait.
func (q *Queue) available() uint16 {
	if n := q.shadow - q.last; n != 0 {
		return n
	}
	idx, err := q.mem.LoadU16(q.avail + 2)
	if err != nil {
		q.Fail(err)
		return 0
	}
	n := idx - q.last
	if n > q.size {
		q.Fail(fmt.Errorf("%w: available index %d, but %d are not taken", ErrProtocol, idx, q.last))
		return 0
	}
	q.shadow = idx
	return n
}

// waiting says whether there is a chain to take.
func (q *Queue) waiting() bool { return len(q.again) > 0 || q.available() != 0 }

// More says whether Pop would find a chain.
func (q *Queue) More() bool { return !q.stop.Load() && q.waiting() }

// Pop takes the next chain. It answers false when there is none, when Serve
// must return, or when the driver broke the rules.
func (q *Queue) Pop(c *Chain) bool { return !q.stop.Load() && q.take(c) }

// PopRest is Pop for what is begun and must be finished with further chains: it
// takes them also when Serve must return.
func (q *Queue) PopRest(c *Chain) bool { return q.Err() == nil && q.take(c) }

func (q *Queue) take(c *Chain) bool {
	if !q.waiting() {
		return false
	}
	if len(q.again) > 0 {
		if err := q.walk(c, q.again[0]); err != nil {
			q.Fail(err)
			return false
		}
		q.again = q.again[1:]
		return true
	}
	head, err := q.mem.LoadU16(q.avail + 4 + 2*uint64(q.last&(q.size-1)))
	if err == nil {
		err = q.walk(c, head)
	}
	if err != nil {
		q.Fail(err)
		return false
	}
	q.last++
	return true
}

// Return gives back the n chains that were popped last, unused and not pushed:
// Pop will find them again.
func (q *Queue) Return(n int) { q.last -= uint16(n) }

// Requeue gives back one chain, by its head, that was popped at any time and not
// pushed: Pop will find it again, before what the ring has, once Serve is called
// anew for the same ring. It is for one who must return before the chain is done,
// and does not go together with Return.
func (q *Queue) Requeue(head uint16) { q.again = append(q.again, head) }

// Push tells the driver that a chain is done and how many bytes were written to
// its In.
func (q *Queue) Push(c *Chain, written uint32) { q.PushHead(c.head, written) }

// Head names a chain for PushHead.
func (c *Chain) Head() uint16 { return c.head }

// PushHead is Push for one who kept only the chain's Head.
func (q *Queue) PushHead(head uint16, written uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := q.used + 4 + 8*uint64(q.usedIdx&(q.size-1))
	err := q.mem.StoreU32(at, uint32(head))
	if err == nil {
		err = q.mem.StoreU32(at+4, written)
	}
	if err == nil {
		q.usedIdx++
		err = q.mem.StoreU16(q.used+2, q.usedIdx)
	}
	if err != nil {
		q.Fail(err)
	}
}

// Interrupt notifies the driver of what was pushed since the last call, if it
// wants to be.
func (q *Queue) Interrupt() {
	q.mu.Lock()
	now, old, fresh := q.usedIdx, q.signaled, q.fresh
	if now == old {
		q.mu.Unlock()
		return
	}
	q.signaled, q.fresh = now, false
	q.mu.Unlock()
	guestmem.Fence()
	var want bool
	var err error
	var v uint16
	if q.eventIdx {
		v, err = q.mem.LoadU16(q.avail + 4 + 2*uint64(q.size))
		want = fresh || now-v-1 < now-old
	} else {
		v, err = q.mem.LoadU16(q.avail)
		want = v&1 == 0
	}
	if err != nil {
		q.Fail(err)
		return
	}
	if want {
		q.irq()
	}
}

// Wait sleeps until a chain is available. It answers false when Serve must
// return.
func (q *Queue) Wait() bool {
	for !q.stop.Load() {
		if q.waiting() {
			return true
		}
		q.ask(true)
		if q.waiting() || q.stop.Load() {
			q.ask(false)
			continue
		}
		q.kick.wait()
		q.ask(false)
	}
	return false
}

// ask switches the driver's notifications on or off; whoever switches them on
// must look at the ring again before it sleeps.
func (q *Queue) ask(on bool) {
	var err error
	switch {
	case q.eventIdx && on:
		err = q.mem.StoreU16(q.used+4+8*uint64(q.size), q.last)
	case q.eventIdx || q.quiet == !on:
		return
	case on:
		err = q.mem.StoreU16(q.used, 0)
	default:
		err = q.mem.StoreU16(q.used, 1)
	}
	q.quiet = !on
	if err != nil {
		q.Fail(err)
	}
	guestmem.Fence()
}
