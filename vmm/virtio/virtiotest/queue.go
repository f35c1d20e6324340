// SPDX-License-Identifier: BSD-2-Clause

package virtiotest

import (
	"fmt"
	"time"

	"github.com/skepvm/skep/vmm/guestmem"
	"github.com/skepvm/skep/vmm/virtio"
)

// Descriptor flags.
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

// VirtqDesc is a descriptor as it lies in memory.
type VirtqDesc struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16
}

// VirtQueue is the driver's side of a split ring.
type VirtQueue struct {
	D                 *Driver
	Index, Size       int
	Desc, Avail, Used uint64
	IRQ               *Interrupt

	EventIdx bool
	quiet    bool
	avail    uint16 // next free entry of the available ring
	seen     uint16 // used entries taken
	free     uint16 // next descriptor to use, round and round
	notify   uint64
}

// NewQueue lays out queue i in fresh memory and tells the device where it is,
// without enabling it. size 0 is the device's largest.
func (d *Driver) NewQueue(i, size int) *VirtQueue {
	d.M.TB.Helper()
	d.Set(QueueSelect, uint64(i))
	if size == 0 {
		size = int(d.Get(QueueSize))
	}
	d.Set(QueueSize, uint64(size))
	n := uint64(size)
	q := &VirtQueue{D: d, Index: i, Size: size, EventIdx: d.Features&virtio.FeatureRingEventIdx != 0}
	q.Desc, q.Avail, q.Used = d.M.Alloc(16*n, 16), d.M.Alloc(6+2*n, 2), d.M.Alloc(6+8*n, 4)
	d.M.Write(q.Desc, make([]byte, 16*n))
	d.M.Write(q.Avail, make([]byte, 6+2*n))
	d.M.Write(q.Used, make([]byte, 6+8*n))
	d.Set(QueueDesc, q.Desc)
	d.Set(QueueDriver, q.Avail)
	d.Set(QueueDevice, q.Used)
	q.IRQ = d.vector(i + 1)
	d.Set(QueueVector, uint64(i+1))
	q.notify = d.notify + d.stride*d.Get(QueueNotifyOff)
	return q
}

// Enable enables the queue.
func (q *VirtQueue) Enable() {
	q.D.Set(QueueSelect, uint64(q.Index))
	q.D.Set(QueueEnable, 1)
}

// SetDesc writes descriptor i of the table at table, with two atomic stores, as
// a guest that changes it under the device's eyes would.
func (q *VirtQueue) SetDesc(table uint64, i int, v VirtqDesc) {
	at := table + 16*uint64(i)
	q.must(q.D.M.Mem.StoreU64(at, v.Addr))
	q.must(q.D.M.Mem.StoreU64(at+8, uint64(v.Len)|uint64(v.Flags)<<32|uint64(v.Next)<<48))
}

// Chain writes descs as a chain into the table and returns its head; the Next
// fields and flags are set here.
func (q *VirtQueue) Chain(descs ...VirtqDesc) uint16 {
	head := q.free
	for i, v := range descs {
		at := q.free
		q.free = (q.free + 1) % uint16(q.Size)
		if i < len(descs)-1 {
			v.Flags |= Next
			v.Next = q.free
		}
		q.SetDesc(q.Desc, int(at), v)
	}
	return head
}

// IndirectChain writes descs into a table of their own.
func (q *VirtQueue) IndirectChain(descs ...VirtqDesc) uint16 {
	return q.IndirectChainAt(q.D.M.Alloc(16*uint64(len(descs)), 16), descs...)
}

// IndirectChainAt writes descs into the table at table, for one who sends more of
// them than memory has room for.
func (q *VirtQueue) IndirectChainAt(table uint64, descs ...VirtqDesc) uint16 {
	for i, v := range descs {
		if i < len(descs)-1 {
			v.Flags |= Next
			v.Next = uint16(i + 1)
		}
		q.SetDesc(table, i, v)
	}
	return q.Chain(VirtqDesc{Addr: table, Len: uint32(16 * len(descs)), Flags: Indirect})
}

// Out is a descriptor of fresh memory that holds p, In one of n bytes to fill.
func (q *VirtQueue) Out(p []byte) VirtqDesc {
	at := q.D.M.Alloc(uint64(len(p)), 8)
	q.D.M.Write(at, p)
	return VirtqDesc{Addr: at, Len: uint32(len(p))}
}

// In is a descriptor of n bytes of fresh memory that the device may write.
func (q *VirtQueue) In(n int) VirtqDesc {
	return VirtqDesc{Addr: q.D.M.Alloc(uint64(n), 8), Len: uint32(n), Flags: Write}
}

// Publish makes head available without a notification.
func (q *VirtQueue) Publish(head uint16) {
	q.must(q.D.M.Mem.StoreU16(q.Avail+4+2*uint64(q.avail%uint16(q.Size)), head))
	q.avail++
	q.D.Entries.Add(1)
	q.must(q.D.M.Mem.StoreU16(q.Avail+2, q.avail))
}

// SetAvail forges the available index.
func (q *VirtQueue) SetAvail(idx uint16) {
	q.avail = idx
	q.must(q.D.M.Mem.StoreU16(q.Avail+2, idx))
}

// NotifyAddr is the address of the queue's notify register.
func (q *VirtQueue) NotifyAddr() uint64 { return q.notify }

// Kick notifies the device.
func (q *VirtQueue) Kick() { q.D.M.Store(q.notify, 2, uint64(q.Index)) }

// WantsKick says whether the device asked for a notification of what was
// published since old.
func (q *VirtQueue) WantsKick(old uint16) bool {
	guestmem.Fence()
	if q.EventIdx {
		ev, err := q.D.M.Mem.LoadU16(q.Used + 4 + 8*uint64(q.Size))
		q.must(err)
		return q.avail-ev-1 < q.avail-old
	}
	flags, err := q.D.M.Mem.LoadU16(q.Used)
	q.must(err)
	return flags&1 == 0
}

// Send publishes head and kicks.
func (q *VirtQueue) Send(head uint16) {
	q.Publish(head)
	q.Kick()
}

// SetUsedEvent asks for an interrupt when the used index passes idx.
func (q *VirtQueue) SetUsedEvent(idx uint16) {
	q.must(q.D.M.Mem.StoreU16(q.Avail+4+2*uint64(q.Size), idx))
}

// Quiet asks for no interrupts, or for them again; then whoever waits for one must
// Poll first.
func (q *VirtQueue) Quiet(on bool) {
	q.quiet = on
	switch {
	case !q.EventIdx && on:
		q.must(q.D.M.Mem.StoreU16(q.Avail, 1))
	case !q.EventIdx:
		q.must(q.D.M.Mem.StoreU16(q.Avail, 0))
	case on:
		q.SetUsedEvent(q.seen - 1) // passed long ago
	default:
		q.SetUsedEvent(q.seen)
	}
}

// UsedIdx is the device's index.
func (q *VirtQueue) UsedIdx() uint16 {
	v, err := q.D.M.Mem.LoadU16(q.Used + 2)
	q.must(err)
	return v
}

// Poll takes the next used entry if there is one.
func (q *VirtQueue) Poll() (head uint32, written uint32, ok bool) {
	if q.UsedIdx() == q.seen {
		return 0, 0, false
	}
	at := q.Used + 4 + 8*uint64(q.seen%uint16(q.Size))
	head, err := q.D.M.Mem.LoadU32(at)
	q.must(err)
	written, err = q.D.M.Mem.LoadU32(at + 4)
	q.must(err)
	q.seen++
	if q.EventIdx && !q.quiet {
		q.SetUsedEvent(q.seen)
	}
	return head, written, true
}

// Wait takes the next used entry, waiting for interrupts only: a device that
// forgets to raise one fails the test.
func (q *VirtQueue) Wait() (head uint32, written uint32) {
	q.D.M.TB.Helper()
	t := time.NewTimer(Patience)
	defer t.Stop()
	for {
		if h, n, ok := q.Poll(); ok {
			return h, n
		}
		guestmem.Fence()
		if q.UsedIdx() != q.seen {
			continue
		}
		select {
		case <-q.IRQ.C:
		case <-t.C:
			q.D.M.TB.Fatalf("queue %d: no interrupt (status %#x, used %d, taken %d)", q.Index, q.D.Get(DeviceStatus), q.UsedIdx(), q.seen)
		}
	}
}

// Do sends a chain of descs, waits for it and returns what was written.
func (q *VirtQueue) Do(descs ...VirtqDesc) uint32 {
	q.D.M.TB.Helper()
	head := q.Chain(descs...)
	q.Send(head)
	h, n := q.Wait()
	if h != uint32(head) {
		q.D.M.TB.Fatalf("queue %d: chain %d came back, not %d", q.Index, h, head)
	}
	return n
}

func (q *VirtQueue) must(err error) {
	if err != nil {
		q.D.M.TB.Helper()
		q.D.M.TB.Fatal(fmt.Errorf("test driver: %w", err))
	}
}

// Again is q after its device's BARs moved and Discover found them: the rings
// and indices are the same, the addresses of registers new.
func (q *VirtQueue) Again() *VirtQueue {
	q.D.Set(QueueSelect, uint64(q.Index))
	q.notify = q.D.notify + q.D.stride*q.D.Get(QueueNotifyOff)
	return q
}
