// SPDX-License-Identifier: BSD-2-Clause

package vmm

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/hv"
)

// Operations of a program of FuzzMachine.
const (
	opPort   = iota // any port, width, value: written, then read
	opOwned         // a port that something listens to
	opMemory        // any guest-physical address
	opEdge          // an address near a border of the map
	opConfig        // configuration space
	opBAR           // a device's registers
	opRAM           // the guest's own memory, rings and all
	opDriver        // a driver starts a device
	opSend          // and gives it something to do
	opCount
)

const (
	maxOps = 300
	// What a program may make the machine allocate: once, and for each of its
	// operations, of which some start a device's queues.
	fuzzBudget, fuzzBudgetOp = 4 << 20, 256 << 10
)

// owned are ports of the machine, each with neighbours that are not.
var owned = [...]uint16{0x3f8, 0x60, 0x64, 0x70, 0x80, 0x92, 0xb2, 0xed, 0x400, 0x404, 0x408, 0x40c, 0xcf8, 0xcf9, 0xcfc, 0x510, 0x2000, 0xfff8}

// edges are where something begins or ends.
var edges = [...]uint64{0, tableBase, MinMemory, holeBase, holeBase + 0x4000, ecamBase, ecamBase + ecamSize, 0xfec00000, 0xfee00000, 0xfef00000,
	0xff000000, 1 << 32, 1 << 46, 1 << 63, ^uint64(0) - 7}

// FuzzMachine makes of a fuzzer's bytes a guest that touches ports and
// guest-physical addresses all over a machine with every device: whatever it
// does, each access comes back, the machine does not fail or grow, and after a
// reset its devices work.
func FuzzMachine(f *testing.F) {
	for _, seed := range fuzzSeeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		b := newBench(t, 2, withDevices)
		b.run()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p := fuzzGuest{m: b.m, p: program}
		n := 0
		for ; n < maxOps && len(p.p) > 0; n++ {
			if !b.inside(n%2, func(h hv.Handler) { p.step(t, h) }) {
				break
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var err error
		if err = b.m.Pause(ctx); err == nil {
			err = errors.Join(b.m.Reset(ctx), b.m.Resume(ctx))
		}
		runtime.ReadMemStats(&after)
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(fuzzBudget+(n+1)*fuzzBudgetOp); got > limit {
			t.Errorf("%d operations made the machine allocate %d bytes, more than %d", n, got, limit)
		}
		switch {
		case err == nil:
			b.inside(0, func(h hv.Handler) { useDevices(t, b.m, h) })
		case !errors.Is(err, ErrEnded):
			t.Error(err)
		}
		b.m.Kill()
		<-b.ran
		if b.end.Cause != Killed && b.end.Cause != PowerOff {
			t.Errorf("ended: %v", b.end)
		}
		b.close()
	})
}

// fuzzSeeds are programs that reach each part of the machine.
var fuzzSeeds = [][]byte{
	{},
	{opOwned, 0, 0, 0, 'x', opOwned, 1, 0, 0, 2, opOwned, 2, 0, 0, 0xfe, opOwned, 3, 0, 0, 0x0b},
	{opOwned, 12, 0, 2, 0xfd, 0, 0x10, 0, 0x80, 0, 0, 0, 0, opOwned, 14, 0, 2, 0xff, opOwned, 14, 1, 1, 7, opOwned, 13, 0, 0, 6},
	{opOwned, 9, 0, 1, 0xfd, 0, 0x34, 0, 0, 0, 0, 0, 0},
	{opPort, 0xff, 0xff, 2, 0xff, opPort, 0xf8, 0x0c, 1, 0xff, opPort, 0xfb, 0x03, 2, 0xff},
	{opMemory, 0, 0, 0, 0xe0, 0, 0, 0, 0, 3, 0xff, opMemory, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 3, 0xff},
	{opEdge, 5, 0, 3, 0xff, opEdge, 6, 0x7f, 3, 0xff, opEdge, 3, 0, 3, 0xff, opEdge, 12, 0, 3, 1, opEdge, 14, 0x07, 3, 1},
	{opConfig, 2, 0x20, 0, 2, 0xff, opConfig, 2, 0x04, 0, 1, 0, opConfig, 2, 0x04, 0, 1, 6, opBAR, 2, 4, 0x14, 0, 0, 0x0f},
	{opDriver, 1, opDriver, 2, opDriver, 3, opDriver, 4, opSend, 1, 1, opSend, 2, 0, opSend, 3, 0, opSend, 3, 1, opSend, 4, 0},
	{opDriver, 2, opRAM, 0x22, 0, 0, 0xff, opRAM, 0x22, 0, 1, 0xff, opSend, 2, 0, opBAR, 2, 4, 0, 0x30, 1, 0},
	{opDriver, 3, opSend, 3, 1, opSend, 3, 0, opConfig, 3, 4, 0, 1, 0, opBAR, 3, 4, 0x14, 0, 0, 0, opDriver, 3, opOwned, 13, 0, 0, 0x0e, opDriver, 3},
	{opDriver, 4, opBAR, 4, 0, 0x0c, 0, 2, 0, opBAR, 4, 0, 0, 8, 3, 0xff, opSend, 4, 0, opDriver, 4, opSend, 4, 0, opOwned, 2, 0, 0, 0xfe, opSend, 4, 0},
}

// fuzzGuest plays a program.
type fuzzGuest struct {
	m *Machine
	p []byte
}

func (g *fuzzGuest) byte() byte {
	if len(g.p) == 0 {
		return 0
	}
	b := g.p[0]
	g.p = g.p[1:]
	return b
}

func (g *fuzzGuest) long() uint64 {
	var v [8]byte
	g.p = g.p[copy(v[:], g.p):]
	return binary.LittleEndian.Uint64(v[:])
}

// value is a byte, or what two of its values stand for.
func (g *fuzzGuest) value() uint64 {
	switch b := g.byte(); b {
	case 0xff:
		return ^uint64(0)
	case 0xfd:
		return g.long()
	default:
		return uint64(b)
	}
}

func (g *fuzzGuest) word() uint64 { return uint64(g.byte()) | uint64(g.byte())<<8 }

func (g *fuzzGuest) step(t *testing.T, h hv.Handler) {
	port := func(at uint64) {
		size := 1 << (g.byte() % 3)
		h.PortWrite(uint16(at), size, uint32(g.value()&(1<<(8*size)-1)))
		if v := h.PortRead(uint16(at), size); uint64(v) >= 1<<(8*size) {
			t.Errorf("port %#x: %d bytes read as %#x", at, size, v)
		}
	}
	memory := func(at uint64) {
		size := 1 << (g.byte() % 4)
		h.MMIOWrite(at, size, g.value()&(^uint64(0)>>(64-8*size)))
		if v := h.MMIORead(at, size); size < 8 && v >= 1<<(8*size) {
			t.Errorf("address %#x: %d bytes read as %#x", at, size, v)
		}
	}
	d := func() *driver { return &driver{m: g.m, h: h, slot: int(g.byte()) % 32} }
	switch g.byte() % opCount {
	case opPort:
		port(g.word())
	case opOwned:
		port(uint64(owned[int(g.byte())%len(owned)]) + uint64(g.byte()%8))
	case opMemory:
		memory(g.long())
	case opEdge:
		memory(edges[int(g.byte())%len(edges)] + uint64(int64(int8(g.byte()))))
	case opConfig:
		slot := uint64(g.byte() % 32)
		memory(ecamBase + slot<<15 + g.word()&0x7fff)
	case opBAR:
		dev := d()
		memory(dev.bar(int(g.byte()%6)) + g.word())
	case opRAM:
		dev, q := d(), int(g.byte()%4)
		var v [8]byte
		at := dev.ring(q) + uint64(g.byte())*2
		binary.LittleEndian.PutUint64(v[:], g.value())
		if err := g.m.mem.WriteAt(v[:], at); err != nil {
			t.Error(err)
		}
	case opDriver:
		dev := d()
		dev.patience = time.Millisecond   // it may be switched off or elsewhere
		if dev.config(8, 4)>>24 != 0xff { // there is a device
			_ = dev.start()
		}
	case opSend:
		dev, q := d(), int(g.byte()%4)
		dev.regs = dev.bar(4)
		if err := dev.send(q, buffer{16, false}, buffer{512, true}, buffer{1, true}); err != nil {
			t.Error(err)
		}
	}
}
