// SPDX-License-Identifier: BSD-2-Clause

package net_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	vnet "github.com/skepvm/skep/vmm/virtio/net"
)

// Of struct virtio_net_hdr (VIRTIO 1.2, section 5.1.6).
const (
	needsCsum = 1
	dataValid = 2
	never     = 1 << 63 // a feature that no device has
)

// kinds are the headers of frames, and the features that driver and device must
// have agreed on for one that the guest sends and for one that it gets.
var kinds = []struct {
	tx, rx     uint64
	flags, gso byte
}{
	{0, 0, 0, 0},
	{1 << 0, 1 << 1, needsCsum, 0},
	{never, 1 << 1, dataValid, 0},
	{1<<0 | 1<<11, 1<<1 | 1<<7, needsCsum, 1},                      // TSO4
	{1<<0 | 1<<11 | 1<<13, 1<<1 | 1<<7 | 1<<9, needsCsum, 1 | 128}, // with ECN
	{1<<0 | 1<<12, 1<<1 | 1<<8, needsCsum, 4},                      // TSO6
	{1<<0 | 1<<14, 1<<1 | 1<<10, needsCsum, 3},                     // UFO
	{1<<0 | 1<<56, 1<<1 | 1<<54 | 1<<55, needsCsum, 5},             // USO
}

const largest = vnet.MaxFrame - vnet.HeaderSize

// source makes the frames of one direction, always the same of one seed: whoever
// sends them has one, and whoever checks them has its twin.
type source struct {
	rnd     *rand.Rand
	pool    []byte // what frames are cut from
	allowed []int  // indices of kinds
	limit   int    // the largest frame

	head  [vnet.HeaderSize]byte
	body  []byte
	bytes uint64   // made so far
	made  []uint64 // by kind
}

// newSource is for frames of at most limit bytes, of the kinds that are agreed on.
func newSource(seed [2]uint64, pool []byte, limit int, agreed func(kind int) bool) *source {
	s := &source{rnd: rand.New(rand.NewPCG(seed[0], seed[1])), pool: pool, limit: limit, made: make([]uint64, len(kinds))}
	for i := range kinds {
		if agreed(i) {
			s.allowed = append(s.allowed, i)
		}
	}
	return s
}

// next makes the next frame: head and body.
func (s *source) next() {
	size := 1
	switch r := s.rnd.IntN(100); {
	case r < 55:
		size += s.rnd.IntN(128)
	case r < 92:
		size += s.rnd.IntN(1514)
	case r < 98:
		size += s.rnd.IntN(9014)
	case r < 99 && s.rnd.IntN(8) == 0:
		size = largest
	default:
		size += s.rnd.IntN(largest)
	}
	size = min(size, s.limit)
	k := s.allowed[s.rnd.IntN(len(s.allowed))]
	segment := 64 + s.rnd.IntN(1400)
	const headers = 66
	if kinds[k].flags&needsCsum != 0 && size < headers || kinds[k].gso != 0 && size <= headers+segment {
		k = 0
	}
	clear(s.head[:])
	s.head[0], s.head[1] = kinds[k].flags, kinds[k].gso
	if kinds[k].flags&needsCsum != 0 {
		binary.LittleEndian.PutUint16(s.head[6:], 34+uint16(s.rnd.IntN(21)))
		binary.LittleEndian.PutUint16(s.head[8:], 6+10*uint16(s.rnd.IntN(2)))
	}
	if kinds[k].gso != 0 {
		binary.LittleEndian.PutUint16(s.head[2:], headers)
		binary.LittleEndian.PutUint16(s.head[4:], uint16(segment))
	}
	at := s.rnd.IntN(len(s.pool) - size)
	s.body = s.pool[at : at+size]
	s.bytes += uint64(size)
	s.made[k]++
}

// len is the length of the frame with header.
func (s *source) len() int { return len(s.head) + len(s.body) }

// read copies the frame from off on to p, which it fills.
func (s *source) read(off int, p []byte) {
	if off < len(s.head) {
		n := copy(p, s.head[off:])
		p, off = p[n:], off+n
	}
	if len(p) > 0 {
		copy(p, s.body[off-len(s.head):])
	}
}

// equal says whether p is the frame from off on.
func (s *source) equal(off int, p []byte) bool {
	if off+len(p) > s.len() {
		return false
	}
	if off < len(s.head) {
		n := min(len(p), len(s.head)-off)
		if !bytes.Equal(p[:n], s.head[off:off+n]) {
			return false
		}
		p, off = p[n:], off+n
	}
	return len(p) == 0 || bytes.Equal(p, s.body[off-len(s.head):][:len(p)])
}

// lane is one direction's room for frames that are on their way: whoever sends
// takes, whoever has checked a frame gives back.
type lane struct {
	frames atomic.Uint64 // checked

	mu         sync.Mutex
	cond       *sync.Cond
	size, free int
	stopped    bool
}

func newLane(size, free int) *lane {
	l := &lane{size: size, free: free}
	l.cond = sync.NewCond(&l.mu)
	return l
}

// try takes n if there is room.
func (l *lane) try(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free < n {
		return false
	}
	l.free -= n
	return true
}

// take waits for room; false means that the round has ended.
func (l *lane) take(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.free < n && !l.stopped {
		l.cond.Wait()
	}
	l.free -= n
	return !l.stopped
}

// drain waits until nothing is on its way.
func (l *lane) drain() bool {
	if !l.take(l.size) {
		return false
	}
	l.give(l.size)
	return true
}

func (l *lane) give(n int) {
	l.mu.Lock()
	l.free += n
	l.mu.Unlock()
	l.cond.Signal() // one sender
}

func (l *lane) stop() {
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
	l.cond.Broadcast()
}
