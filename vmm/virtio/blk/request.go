// SPDX-License-Identifier: BSD-2-Clause

package blk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/skepvm/skep/vmm/virtio"
)

// Request types and answers (VIRTIO 1.2, section 5.2.6).
const (
	typeIn          = 0
	typeOut         = 1
	typeFlush       = 4
	typeGetID       = 8
	typeDiscard     = 11
	typeWriteZeroes = 13

	statusOK          = 0
	statusIOError     = 1
	statusUnsupported = 2

	headerSize = 16
	rangeSize  = 16
)

// piece and discardPiece bound the bytes that the disk is asked for at once.
// Between two pieces a request looks whether its queue shall stop: a guest may ask
// for hours of work, and Pause waits for what is in flight.
const (
	piece        = 4 << 20 // read, written, zeroed
	discardPiece = 64 << 20
)

var (
	errRange       = errors.New("beyond the end of the disk")
	errUnsupported = errors.New("no such request")
	errStopped     = errors.New("the queue stops before the request is done")
)

// request is a chain with its header read. The header is read once: the guest
// may change it afterwards, and we shall not see it.
type request struct {
	chain   virtio.Chain
	kind    uint32
	sector  uint64
	data    [][]byte // of the right direction
	size    uint64   // of data
	status  []byte   // one byte of guest memory
	refused bool     // too large
	done    bool     // a read that was done by quick
}

// parse splits r.chain. It answers false for a chain that has no header or no
// room for a status: that is a driver which cannot be answered.
func (r *request) parse() bool {
	c := &r.chain
	var h [headerSize]byte
	if virtio.CopyOut(h[:], c.Out) != headerSize || c.InLen == 0 {
		return false
	}
	r.kind = binary.LittleEndian.Uint32(h[0:])
	r.sector = binary.LittleEndian.Uint64(h[8:])
	last := len(c.In) - 1
	n := len(c.In[last]) - 1
	r.status = c.In[last][n:]
	in := c.In[:last]
	if n > 0 {
		c.In[last] = c.In[last][:n]
		in = c.In
	}
	out := virtio.Skip(c.Out, headerSize)
	switch r.kind {
	case typeIn, typeGetID:
		r.data, r.size = in, c.InLen-1
	default:
		r.data, r.size = out, c.OutLen-headerSize
	}
	r.refused, r.done = r.size > maxRequest, false
	return true
}

// server works on one queue.
type server struct {
	d *Device
	q *virtio.Queue

	wg     sync.WaitGroup // the helpers
	jobs   chan *request
	idle   chan *request // requests that helpers are done with
	flying atomic.Int32  // requests that helpers have
	built  int           // requests made so far, at most helpers+1
	crew   int           // helpers started so far

	mu     sync.Mutex
	parked []uint16 // heads of requests that stopped before they were done
}

// Serve works on queue q until it shall stop.
func (d *Device) Serve(_ int, q *virtio.Queue) {
	s := &server{d: d, q: q, jobs: make(chan *request, helpers), idle: make(chan *request, helpers+1)}
	r := s.get()
	for q.Wait() {
		for n := q.Size(); n > 0 && q.Pop(&r.chain); n-- {
			if !r.parse() {
				q.Fail(fmt.Errorf("%w: block request without header or status", virtio.ErrProtocol))
				break
			}
			if s.flying.Load() == 0 && !q.More() || s.quick(r) {
				s.finish(r)
				continue
			}
			s.handOver(r)
			r = s.get()
		}
		q.Interrupt()
	}
	close(s.jobs)
	s.wg.Wait()
	for _, head := range s.parked {
		q.Requeue(head)
	}
}

// get returns a request without work, when all are in flight the first that
// comes back.
func (s *server) get() *request {
	select {
	case r := <-s.idle:
		return r
	default:
	}
	if s.built <= helpers {
		s.built++
		return &request{}
	}
	s.q.Interrupt() // the driver shall not wait with us for what is done
	return <-s.idle
}

// quick says that finish will not wait for the disk. A read whose data are at
// hand is done here.
func (s *server) quick(r *request) bool {
	switch {
	case r.refused || r.kind == typeGetID:
		return true
	case r.kind == typeIn && r.size <= piece:
		off, err := s.d.offset(r.sector, r.size)
		if err != nil {
			return true
		}
		r.done = s.d.backend.TryReadV(r.data, off) == nil
		return r.done
	}
	return false
}

func (s *server) handOver(r *request) {
	if int(s.flying.Add(1)) > s.crew && s.crew < helpers {
		s.crew++
		s.wg.Add(1)
		go s.help()
	}
	s.jobs <- r // never blocks long: there is room for all requests but one
}

func (s *server) help() {
	defer s.wg.Done()
	for r := range s.jobs {
		s.finish(r)
		s.flying.Add(-1)
		s.q.Interrupt()
		s.idle <- r
	}
}

// finish carries r out and answers it. One that the queue's end stops is begun
// again when the queue is served again: whatever it is, twice is as good as once.
func (s *server) finish(r *request) {
	written, err := r.size, error(nil)
	switch {
	case r.refused:
		written, err = 0, errRange
	case !r.done:
		written, err = s.d.do(s.q, r)
	}
	status := uint8(statusOK)
	switch err {
	case nil:
	case errStopped:
		s.mu.Lock()
		s.parked = append(s.parked, r.chain.Head())
		s.mu.Unlock()
		return
	case errUnsupported:
		written, status = 0, statusUnsupported
	default:
		written, status = 0, statusIOError
	}
	s.d.count(r, status)
	r.status[0] = status
	s.q.Push(&r.chain, uint32(written)+1)
}

// do carries r out and returns how many bytes of data were written to the guest.
func (d *Device) do(q *virtio.Queue, r *request) (written uint64, err error) {
	switch r.kind {
	case typeIn:
		off, err := d.offset(r.sector, r.size)
		if err == nil {
			err = transfer(q, r, off, d.backend.ReadV)
		}
		return r.size, err
	case typeOut:
		off, err := d.offset(r.sector, r.size)
		switch {
		case err != nil:
		case d.geo.ReadOnly:
			err = errRange
		default:
			if err = transfer(q, r, off, d.backend.WriteV); err == nil && !d.writeback.Load() {
				err = d.backend.Flush()
			}
		}
		return 0, err
	case typeFlush:
		return 0, d.backend.Flush()
	case typeGetID:
		return uint64(virtio.CopyIn(r.data, d.serial[:])), nil
	case typeDiscard, typeWriteZeroes:
		return 0, d.ranges(q, r)
	}
	return 0, errUnsupported
}

// offset checks a range of the disk.
func (d *Device) offset(sector, size uint64) (int64, error) {
	sectors := uint64(d.geo.Size) / sectorSize
	if size%sectorSize != 0 || sector > sectors || size/sectorSize > sectors-sector {
		return 0, errRange
	}
	return int64(sector * sectorSize), nil
}

// transfer gives r's data to f, in pieces if there is more than one. It changes
// the elements of r.data.
func transfer(q *virtio.Queue, r *request, off int64, f func(bufs [][]byte, off int64) error) error {
	if r.size <= piece {
		return f(r.data, off)
	}
	for bufs := r.data; len(bufs) > 0; {
		if q.Stopping() {
			return errStopped
		}
		n, k := 0, 0
		for k < len(bufs) && n+len(bufs[k]) <= piece {
			n += len(bufs[k])
			k++
		}
		var rest []byte
		if cut := piece - n; k < len(bufs) && cut > 0 {
			rest, bufs[k] = bufs[k][cut:], bufs[k][:cut]
			n += cut
			k++
		}
		if err := f(bufs[:k], off); err != nil {
			return err
		}
		off += int64(n)
		if rest != nil {
			k--
			bufs[k] = rest
		}
		bufs = bufs[k:]
	}
	return nil
}

// span is one checked range of a discard or write-zeroes request.
type span struct {
	off, n int64
	unmap  bool
}

// ranges carries out discard and write-zeroes. All of the request is looked at
// first: its ranges are together at most the disk.
func (d *Device) ranges(q *virtio.Queue, r *request) error {
	if r.kind == typeDiscard && !d.discard || r.kind == typeWriteZeroes && !d.zero {
		return errUnsupported
	}
	if r.size == 0 || r.size%rangeSize != 0 || r.size > maxRanges*rangeSize {
		return errUnsupported
	}
	var buf [maxRanges * rangeSize]byte
	var spans [maxRanges]span
	le := binary.LittleEndian
	b, count, total := buf[:virtio.CopyOut(buf[:r.size], r.data)], 0, int64(0)
	for ; len(b) > 0; b = b[rangeSize:] {
		sector, n, flags := le.Uint64(b), le.Uint32(b[8:]), le.Uint32(b[12:])
		off, err := d.offset(sector, uint64(n)*sectorSize)
		s := span{off: off, n: int64(n) * sectorSize, unmap: flags&1 != 0}
		if flags&^1 != 0 || s.unmap && r.kind == typeDiscard {
			return errUnsupported
		}
		if total += s.n; err != nil || n > maxSectors || total > d.geo.Size {
			return errRange
		}
		spans[count] = s
		count++
	}
	for _, s := range spans[:count] {
		if err := d.clear(q, r.kind, s); err != nil {
			return err
		}
	}
	return nil
}

// clear discards or zeroes s piece by piece. Pieces end where a multiple of their
// size does: the disk's own blocks are not cut.
func (d *Device) clear(q *virtio.Queue, kind uint32, s span) (err error) {
	size := int64(piece)
	if kind == typeDiscard {
		size = discardPiece
	}
	for s.n > 0 && err == nil {
		if q.Stopping() {
			return errStopped
		}
		n := min(s.n, size-s.off%size)
		if kind == typeDiscard {
			err = d.backend.Discard(s.off, n)
		} else {
			err = d.backend.WriteZeroes(s.off, n, s.unmap)
		}
		s.off, s.n = s.off+n, s.n-n
	}
	return err
}
