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
	case r.kind == typeIn:
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

// finish carries r out and answers it.
func (s *server) finish(r *request) {
	written, status := r.size, uint8(statusOK)
	switch {
	case r.refused:
		written, status = 0, statusIOError
	case !r.done:
		written, status = s.d.do(r)
	}
	s.d.count(r, status)
	r.status[0] = status
	s.q.Push(&r.chain, uint32(written)+1)
}

var errRange = errors.New("beyond the end of the disk")

// do carries r out and returns how many bytes of data were written to the guest.
func (d *Device) do(r *request) (written uint64, status uint8) {
	var err error
	switch r.kind {
	case typeIn:
		var off int64
		if off, err = d.offset(r.sector, r.size); err == nil {
			if err = d.backend.ReadV(r.data, off); err == nil {
				written = r.size
			}
		}
	case typeOut:
		var off int64
		if off, err = d.offset(r.sector, r.size); err == nil && !d.geo.ReadOnly {
			if err = d.backend.WriteV(r.data, off); err == nil && !d.writeback.Load() {
				err = d.backend.Flush()
			}
		} else if err == nil {
			err = errRange
		}
	case typeFlush:
		err = d.backend.Flush()
	case typeGetID:
		written = uint64(virtio.CopyIn(r.data, d.serial[:]))
	case typeDiscard, typeWriteZeroes:
		return 0, d.ranges(r)
	default:
		return 0, statusUnsupported
	}
	if err != nil {
		return 0, statusIOError
	}
	return written, statusOK
}

// offset checks a range of the disk.
func (d *Device) offset(sector, size uint64) (int64, error) {
	sectors := uint64(d.geo.Size) / sectorSize
	if size%sectorSize != 0 || sector > sectors || size/sectorSize > sectors-sector {
		return 0, errRange
	}
	return int64(sector * sectorSize), nil
}

// ranges carries out discard and write-zeroes.
func (d *Device) ranges(r *request) uint8 {
	if r.kind == typeDiscard && !d.discard || r.kind == typeWriteZeroes && !d.zero {
		return statusUnsupported
	}
	if r.size == 0 || r.size%rangeSize != 0 || r.size > maxRanges*rangeSize {
		return statusUnsupported
	}
	var buf [maxRanges * rangeSize]byte
	le := binary.LittleEndian
	b := buf[:virtio.CopyOut(buf[:r.size], r.data)]
	for ; len(b) > 0; b = b[rangeSize:] {
		sector, n, flags := le.Uint64(b), le.Uint32(b[8:]), le.Uint32(b[12:])
		off, err := d.offset(sector, uint64(n)*sectorSize)
		unmap := flags&1 != 0
		switch {
		case flags&^1 != 0 || unmap && r.kind == typeDiscard:
			return statusUnsupported
		case err != nil || n > maxSectors:
			return statusIOError
		case r.kind == typeDiscard:
			err = d.backend.Discard(off, int64(n)*sectorSize)
		default:
			err = d.backend.WriteZeroes(off, int64(n)*sectorSize, unmap)
		}
		if err != nil {
			return statusIOError
		}
	}
	return statusOK
}
