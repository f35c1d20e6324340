// SPDX-License-Identifier: BSD-2-Clause

package chipset_test

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/skepvm/skep/vmm/chipset"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type pmRig struct {
	guest
	p    *chipset.PM
	offs int
	lines
}

func newPM(t testing.TB) *pmRig {
	t.Helper()
	r := &pmRig{guest: guest{t: t}}
	r.p = chipset.NewPM(chipset.PMConfig{SCI: func(v bool) { r.set(chipset.SCI, v) }, PowerOff: func() { r.offs++ }})
	if err := r.p.Map(&r.ports); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *pmRig) word(port uint64) uint16 {
	r.t.Helper()
	v, ok := r.ports.Read(port, 2)
	if !ok {
		r.t.Fatalf("port %#x: nobody there", port)
	}
	return uint16(v)
}

func TestPMPowerButton(t *testing.T) {
	const sts, en, cnt = chipset.PortPM1Event, chipset.PortPM1Event + 2, chipset.PortPM1Cntl
	r := newPM(t)
	if r.p.PowerButton() || r.high(9) {
		t.Error("pressed before anybody listens")
	}
	r.ports.Write(sts, 2, 0xffff)
	if r.word(sts) != 0 {
		t.Error("status is not cleared by ones")
	}
	r.out(chipset.PortSMI, chipset.SMIEnable)
	if r.word(cnt) != 1 || r.in(chipset.PortSMI) != chipset.SMIEnable {
		t.Errorf("PM1_CNT %#x in ACPI mode", r.word(cnt))
	}
	if r.p.PowerButton() || r.high(9) {
		t.Error("pressed, but not enabled")
	}
	r.out(en+1, 1) // by bytes, as some do
	if r.word(en) != 0x100 || !r.high(9) {
		t.Error("enabling finds the event")
	}
	r.out(sts, 0xff)
	if !r.high(9) {
		t.Error("another byte's ones cleared it")
	}
	r.out(sts+1, 1)
	if r.high(9) || r.word(sts) != 0 {
		t.Error("not cleared")
	}
	if !r.p.PowerButton() || !r.high(9) {
		t.Error("not heard")
	}
	r.out(chipset.PortSMI, chipset.SMIDisable)
	if r.high(9) || r.word(cnt) != 0 {
		t.Error("SCI outside ACPI mode")
	}
	r.ports.Write(sts, 4, 0xffffffff) // both at once
	if v, _ := r.ports.Read(sts, 4); v != 0x0520<<16 {
		t.Errorf("status and enable %#x", v)
	}
	// Pressed while the machine rests.
	r.out(chipset.PortSMI, chipset.SMIEnable)
	r.p.Pause()
	if !r.p.PowerButton() || r.high(9) {
		t.Error("while paused")
	}
	r.p.Resume()
	if !r.high(9) {
		t.Error("not seen after resume")
	}
	r.p.Pause()
	r.p.Reset()
	r.p.Resume()
	if r.high(9) || r.word(sts) != 0 || r.word(en) != 0 || r.word(cnt) != 0 {
		t.Error("not reset")
	}
}

func TestPMSleep(t *testing.T) {
	const cnt = chipset.PortPM1Cntl
	r := newPM(t)
	for typ := range uint64(8) {
		r.ports.Write(cnt, 2, typ<<10) // without SLP_EN
		if typ != chipset.SleepS5 {
			r.ports.Write(cnt, 2, typ<<10|1<<13)
		}
	}
	if r.offs != 0 {
		t.Fatal("powered off without being asked")
	}
	if r.word(cnt)&(1<<13) != 0 {
		t.Error("SLP_EN reads as one")
	}
	r.ports.Write(cnt, 2, 5<<10|1<<13)
	r.ports.Write(cnt, 2, 5<<10|1<<13)
	if r.offs != 1 {
		t.Errorf("%d power offs", r.offs)
	}
	r.p.Reset()
	r.out(cnt+1, 5<<2|1<<5)
	if r.offs != 2 {
		t.Error("a byte does not do it")
	}
}

func TestPMTimer(t *testing.T) {
	clock := newClock(noon)
	g := guest{t: t}
	tm := chipset.NewPMTimer(clock)
	if err := g.ports.Map(chipset.PortPMTimer, 4, tm); err != nil {
		t.Fatal(err)
	}
	read := func() uint64 { v, _ := g.ports.Read(chipset.PortPMTimer, 4); return v }
	clock.advance(time.Hour)
	if read() != 0 {
		t.Error("runs before Start")
	}
	tm.Start()
	clock.advance(time.Second)
	if v := read(); v != chipset.PMTimerHz {
		t.Errorf("%d after a second", v)
	}
	tm.Pause()
	clock.advance(time.Hour)
	if v := read(); v != chipset.PMTimerHz {
		t.Errorf("%d after a pause", v)
	}
	tm.Resume()
	clock.advance(time.Millisecond)
	if v := read(); v != chipset.PMTimerHz+3579 {
		t.Errorf("%d after resume", v)
	}
	clock.advance(1000 * time.Hour)
	seconds := uint64(3600*1000 + 1)
	if v, want := read(), (seconds*chipset.PMTimerHz+3579)&0xffffffff; v != want {
		t.Errorf("%d after 1000 hours, wanted %d", v, want)
	}
	before := read()
	clock.jump(noon)
	if v := read(); v > before {
		t.Errorf("ran forward to %d when the host's clock went back", v)
	}
	if v, _ := g.ports.Read(chipset.PortPMTimer, 2); v != 0xffff {
		t.Errorf("half of it reads %#x", v)
	}
}

func TestI8042(t *testing.T) {
	var ln lines
	resets := 0
	k := chipset.NewI8042(func() { resets++ }, func(v bool) { ln.set(1, v) })
	g := guest{t: t}
	if err := k.Map(&g.ports); err != nil {
		t.Fatal(err)
	}
	answers := func(what string, want ...byte) {
		t.Helper()
		for i, w := range want {
			if g.in(0x64)&1 == 0 {
				t.Errorf("%s: no answer %d", what, i)
				return
			}
			if got := g.in(0x60); got != w {
				t.Errorf("%s: answer %d is %#x, wanted %#x", what, i, got, w)
			}
		}
		if g.in(0x64)&1 != 0 {
			t.Errorf("%s: more than %d answers", what, len(want))
		}
	}
	// Linux' i8042_controller_check, _selftest and atkbd_probe.
	answers("at first")
	g.out(0x64, 0xaa)
	answers("self test", 0x55)
	g.out(0x64, 0x20)
	answers("configuration", 0x24)
	g.out(0x64, 0x60)
	g.out(0x60, 0x45)
	g.out(0x64, 0x20)
	answers("configuration", 0x45)
	g.out(0x64, 0xab)
	answers("keyboard's line", 0)
	g.out(0x64, 0xa9)
	answers("no mouse", 2)
	g.out(0x64, 0xd4)
	g.out(0x60, 0xf2)
	answers("silence of the mouse")
	before := ln.rises(1)
	g.out(0x60, 0xf2)
	if !ln.high(1) {
		t.Error("no interrupt")
	}
	answers("identity", 0xfa, 0xab, 0x83)
	if ln.high(1) || ln.rises(1)-before != 3 {
		t.Errorf("%d interrupts for three bytes", ln.rises(1)-before)
	}
	g.out(0x60, 0xff)
	answers("reset", 0xfa, 0xaa)
	g.out(0x60, 0xed)
	answers("lights", 0xfa)
	g.out(0x60, 0xff)
	answers("their argument", 0xfa)
	g.out(0x60, 0xee)
	answers("echo", 0xee)
	g.out(0x60, 0x55)
	answers("nonsense", 0xfe)
	g.out(0x64, 0xd0)
	answers("output port", 3)
	if resets != 0 {
		t.Fatal("reset by a probe")
	}
	for _, c := range []byte{0xf0, 0xfe} {
		g.out(0x64, c)
	}
	g.out(0x64, 0xff)
	g.out(0x64, 0xd1)
	g.out(0x60, 0x02)
	if resets != 3 {
		t.Errorf("%d resets, wanted 3", resets)
	}
	for range 100 {
		g.out(0x60, 0xff) // nobody reads
	}
	k.Pause()
	k.Reset()
	k.Resume()
	answers("after reset")
	if ln.high(1) {
		t.Error("the line stays high")
	}
}

func TestResetRegisters(t *testing.T) {
	n := 0
	rc, pa := chipset.NewResetControl(func() { n++ }), chipset.NewPortA(func() { n++ })
	for v, want := range map[uint64]int{0: 0, 2: 0, 8: 0, 4: 1, 6: 1, 0xe: 1} {
		if n = 0; true {
			rc.Write(0, 1, v)
		}
		if n != want || rc.Read(0, 1) != v&0xa {
			t.Errorf("0xcf9 = %#x: %d resets, reads %#x", v, n, rc.Read(0, 1))
		}
	}
	n = 0
	if pa.Read(0, 1) != 2 {
		t.Error("A20 is closed")
	}
	pa.Write(0, 1, 0)
	if pa.Read(0, 1) != 0 || n != 0 {
		t.Error("A20 cannot be closed")
	}
	pa.Write(0, 1, 3)
	pa.Reset()
	rc.Reset()
	if n != 1 || pa.Read(0, 1) != 2 || rc.Read(0, 1) != 0 {
		t.Error("port 0x92")
	}
}

// hammer plays ops against a whole chipset: a port, a width, a value.
func hammer(t testing.TB, c *chipset.Chipset, g *guest, clock *fakeClock, next func() (op byte, port uint16, v uint32, ok bool)) {
	for n := 0; ; n++ {
		op, port, v, ok := next()
		if !ok {
			return
		}
		size := []int{1, 2, 4}[int(op>>2)%3]
		switch op & 3 {
		case 0:
			got, there := g.ports.Read(uint64(port), size)
			if mask := uint64(1)<<(8*size) - 1; got&^mask != 0 || !there && got != mask {
				t.Fatalf("port %#x, %d bytes: %#x", port, size, got)
			}
		case 1:
			g.ports.Write(uint64(port), size, uint64(v))
		case 2:
			clock.advance(time.Duration(v%5000) * time.Microsecond)
		default:
			switch v % 16 {
			case 0:
				c.Pause()
				c.Reset()
				c.Resume()
			case 1:
				c.Pause()
				c.Resume()
			case 2:
				c.PM.PowerButton()
			}
		}
	}
}

// interesting are the ports at which something is.
var interesting = []uint16{0x60, 0x64, 0x70, 0x71, 0x80, 0x92, 0xb2, 0xed, 0x2f8, 0x2f9, 0x2fa, 0x2fb, 0x2fc, 0x2fd, 0x2fe, 0x2ff,
	0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff, 0x400, 0x401, 0x402, 0x403, 0x404, 0x405, 0x408, 0x40c, 0x40e, 0xcf9}

func newChipset(t testing.TB, clock chipset.Clock) (*chipset.Chipset, *guest, *lines) {
	t.Helper()
	var ln lines
	c, err := chipset.New(chipset.Config{SetIRQ: ln.set, HasCOM2: true, COM1: &bytes.Buffer{}, LowMem: 1 << 30, Clock: clock,
		Reset: func() {}, PowerOff: func() {}})
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t}
	if err := c.Map(&g.ports); err != nil {
		t.Fatal(err)
	}
	if err := g.ports.Map(chipset.PortReset, 1, c.ResetControl); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c, g, &ln
}

// TestEveryPort reads and writes every port in every width, twice.
func TestEveryPort(t *testing.T) {
	clock := newClock(noon)
	c, g, ln := newChipset(t, clock)
	defer c.Halt()
	for range 2 {
		for port := range uint64(1 << 16) {
			for _, size := range []int{1, 2, 4} {
				v, _ := g.ports.Read(port, size)
				g.ports.Write(port, size, v^0xa5a5a5a5)
				g.ports.Write(port, size, ^uint64(0))
			}
		}
	}
	c.Pause()
	c.Reset()
	for n := range 24 {
		if ln.high(n) {
			t.Errorf("line %d is high after a reset", n)
		}
	}
}

// TestManyCPUs has several threads play at the chipset at once.
func TestManyCPUs(t *testing.T) {
	c, g, _ := newChipset(t, chipset.SystemClock{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for range 20000 {
				port := uint64(interesting[r.IntN(len(interesting))])
				if size := 1 << r.IntN(3); r.IntN(2) == 0 {
					g.ports.Read(port, size)
				} else {
					g.ports.Write(port, size, r.Uint64())
				}
				if r.IntN(1000) == 0 {
					c.PM.PowerButton()
				}
			}
		})
	}
	wg.Wait()
	c.Halt()
}

// FuzzPorts plays anything against everything.
func FuzzPorts(f *testing.F) {
	f.Add([]byte{1, 20, 0, 7, 1, 22, 0, 0x0b, 0, 21, 0, 0})
	f.Add([]byte{1, 2, 0, 0x8b, 1, 3, 0, 0x72, 2, 0, 255, 255, 3, 0, 0, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 1<<12 {
			return
		}
		clock := newClock(noon)
		c, g, _ := newChipset(t, clock)
		hammer(t, c, g, clock, func() (byte, uint16, uint32, bool) {
			if len(ops) < 4 {
				return 0, 0, 0, false
			}
			op, sel, v := ops[0], ops[1], uint32(ops[2])<<8|uint32(ops[3])
			ops = ops[4:]
			port := uint16(sel)<<8 | uint16(v)&0xff // anywhere
			if op&0x80 == 0 {
				port = interesting[int(sel)%len(interesting)]
			}
			return op & 0x7f, port, v * 0x10001, true
		})
		c.Halt()
	})
}
