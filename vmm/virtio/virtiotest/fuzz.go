// SPDX-License-Identifier: BSD-2-Clause

package virtiotest

import (
	"encoding/binary"
	"testing"
)

// Fuzz makes of a fuzzer's bytes a program for a driver: writes of registers,
// descriptors, rings and memory, kicks, resets, pauses, moved BARs. Whatever it
// does, the device must come back and work.
func Fuzz(f *testing.F, s Subject) {
	if s.Budget == 0 {
		s.Budget = 4 << 20
	}
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		d, stir := s.attach(t, 4<<20, len(program)%2 == 0)
		p := player{d: d, p: program, stir: stir}
		p.d.M.SetConfig(d.Slot, 4, 2, 6)
		s.measured(d, func() {
			for range 400 {
				if !p.step() {
					break
				}
			}
			if p.paused {
				d.Dev.Resume()
			}
			d.Dev.Pause()
			d.Dev.Reset()
			d.Dev.Resume()
			d.Discover()
		})
		d.M.rewind()
		s.again(d)
	})
}

// seeds are programs that reach deep: a started device and a chain in flight.
var seeds = [][]byte{
	{},
	{opStart, 0xff, opDesc, 0, 0, 1, 16, 0, 1, 1, opDesc, 0, 1, 2, 64, 0, 2, 0, opPublish, 0, 0, opKick, 0, opStir, opKick, 0},
	{opStart, 0xff, opDesc, 1, 0, 1, 16, 0, 1, 1, opDesc, 1, 1, 2, 64, 0, 2, 0, opPublish, 1, 0, opKick, 1, opPause, opKick, 1, opPause, opReset},
	{opStart, 0, opDesc, 0, 0, 9, 255, 255, 2, 0, opPublish, 0, 0, opKick, 0, opStir},
	{opStart, 0xff, opDesc, 0, 0, 3, 64, 0, 4, 0, opDesc, 0, 1, 3, 32, 0, 4, 0, opPublish, 0, 0, opKick, 0, opStir, opCommon, 0x3a, 2, 1, opKick, 0},
	{opConfig, 0x20, 4, 0xff, opConfig, 0x04, 2, 0, opConfig, 0x04, 2, 6, opStart, 0xff, opKick, 0},
	{opStart, 0xff, opBAR, 0, 0x30, 2, 1, opCommon, 0x14, 1, 0, opCommon, 0x14, 1, 0x0f, opTable, 0x0c, 1, opStir},
	{opStart, 0xff, opMemory, 1, 0, 0, 0, 0, 0, 0, 0, opMemory, 2, 1, 1, 1, 1, 1, 1, 1, opPublish, 0, 1, opAvail, 0, 200, 0, opKick, 0},
}

// Operations of a program.
const (
	opStart = iota
	opDesc
	opPublish
	opKick
	opStir
	opPause
	opReset
	opCommon
	opConfig
	opBAR
	opTable
	opMemory
	opAvail
	opCount
)

type player struct {
	d      *Driver
	p      []byte
	stir   func()
	qs     []*VirtQueue
	starts int
	paused bool
}

func (p *player) byte() byte {
	if len(p.p) == 0 {
		return 0
	}
	b := p.p[0]
	p.p = p.p[1:]
	return b
}

func (p *player) value() uint64 {
	b := p.byte()
	switch {
	case b == 0xff:
		return ^uint64(0)
	case b == 0xfe:
		var v [8]byte
		n := copy(v[:], p.p)
		p.p = p.p[n:]
		return binary.LittleEndian.Uint64(v[:])
	}
	return uint64(b)
}

// address picks a place worth trying.
func (p *player) address() uint64 {
	switch b := p.byte(); b {
	case 9:
		return 0xc0000000
	case 10:
		return ^uint64(0) - 4
	case 11:
		return High + 1<<20 - 4
	case 12:
		return High + 1<<30
	case 13:
		return p.value()
	default:
		return 0x10000 + uint64(b)<<8
	}
}

func (p *player) queue() *VirtQueue {
	i := int(p.byte())
	if len(p.qs) == 0 {
		return nil
	}
	return p.qs[i%len(p.qs)]
}

var widths = [...]int{1, 2, 4, 8}

func (p *player) step() bool {
	if len(p.p) == 0 {
		return false
	}
	d := p.d
	op := p.byte() % opCount
	switch op {
	case opPause, opCommon, opConfig, opBAR, opTable, opMemory, opAvail:
		// It may show the device as much as its rings hold, and start it.
		d.Starts.Add(1)
		for _, n := range d.Info.Queues {
			d.Entries.Add(uint64(n))
		}
	}
	switch op {
	case opStart:
		features := p.value()
		if p.starts++; p.starts > 8 || p.paused {
			return true
		}
		d.M.SetConfig(d.Slot, 4, 2, 6)
		if !d.find() || d.Get(DeviceStatus) == 0xff {
			return true // the program moved everything out of reach
		}
		p.qs = nil
		if d.Negotiate(features) {
			for i := range int(d.Get(NumQueues)) {
				q := d.NewQueue(i, min(16, int(d.size(i))))
				q.Enable()
				p.qs = append(p.qs, q)
			}
			d.DriverOK()
		}
	case opDesc:
		q, i := p.queue(), p.byte()
		v := VirtqDesc{Addr: p.address()}
		v.Len = uint32(p.byte())
		v.Len |= uint32(p.byte()) << 8
		v.Flags = uint16(p.byte())
		v.Next = uint16(p.byte())
		if q != nil {
			q.raw(int(i)%q.Size, v)
		}
	case opPublish:
		if q, h := p.queue(), p.byte(); q != nil {
			q.Publish(uint16(h))
		}
	case opKick:
		if q := p.queue(); q != nil {
			q.Kick()
		}
	case opStir:
		p.stir()
	case opPause:
		if p.paused {
			d.Dev.Resume()
		} else {
			d.Dev.Pause()
		}
		p.paused = !p.paused
	case opReset:
		if p.paused {
			d.Dev.Reset()
			p.qs = nil
		}
	case opCommon:
		off, w := p.byte(), widths[p.byte()%4]
		d.M.Store(d.Common+uint64(off), w, p.value())
		d.M.Load(d.Common+uint64(off), w)
	case opConfig:
		off, b := int(p.byte()), int(p.byte())
		w := widths[b%3]
		if off |= b >> 4 << 8; off+w <= 0x1000 {
			d.M.SetConfig(d.Slot, off, w, uint32(p.value()))
			d.M.Config(d.Slot, off, w)
		}
	case opBAR:
		off := uint64(p.byte()) | uint64(p.byte())<<8
		w := widths[p.byte()%4]
		d.M.Store(d.Common+off, w, p.value())
		d.M.Load(d.Common+off, w)
	case opTable:
		off := uint64(p.byte())
		d.M.Store(d.table+off, 4, p.value())
		d.M.Load(d.table+off+0x800, 8)
	case opMemory:
		at := p.address()
		n := min(8, len(p.p))
		_ = d.M.Mem.WriteAt(p.p[:n], at)
		p.p = p.p[n:]
	case opAvail:
		q := p.queue()
		v := uint16(p.byte()) | uint16(p.byte())<<8
		if q != nil {
			q.SetAvail(v)
		}
	}
	return true
}

// size is the largest size of queue i.
func (d *Driver) size(i int) uint64 {
	d.Set(QueueSelect, uint64(i))
	return d.Get(QueueSize)
}
