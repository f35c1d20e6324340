// SPDX-License-Identifier: BSD-2-Clause

package chipset_test

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"github.com/skepvm/skep/vmm/bus"
	"github.com/skepvm/skep/vmm/chipset"
)

// lines records the interrupt lines.
type lines struct {
	mu    sync.Mutex
	level [24]bool
	edges [24]int
}

func (l *lines) set(n int, v bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if v && !l.level[n] {
		l.edges[n]++
	}
	l.level[n] = v
}

func (l *lines) high(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.level[n]
}

func (l *lines) rises(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.edges[n]
}

type guest struct {
	t     testing.TB
	ports bus.Bus
}

func (g *guest) in(port uint64) byte {
	g.t.Helper()
	v, ok := g.ports.Read(port, 1)
	if !ok {
		g.t.Fatalf("port %#x: nobody there", port)
	}
	return byte(v)
}

func (g *guest) out(port uint64, v byte) {
	g.t.Helper()
	if !g.ports.Write(port, 1, uint64(v)) {
		g.t.Fatalf("port %#x: nobody there", port)
	}
}

func TestAssembled(t *testing.T) {
	var out bytes.Buffer
	var ln lines
	resets, offs := 0, 0
	c, err := chipset.New(chipset.Config{SetIRQ: ln.set, COM1: &out, HasCOM2: true, LowMem: 64 << 20,
		Reset: func() { resets++ }, PowerOff: func() { offs++ }})
	if err != nil {
		t.Fatal(err)
	}
	g := guest{t: t}
	if err := c.Map(&g.ports); err != nil {
		t.Fatal(err)
	}
	if err := g.ports.Map(chipset.PortReset, 1, c.ResetControl); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for _, b := range []byte("hello\n") {
		if g.in(0x3fd)&0x60 != 0x60 {
			t.Fatal("transmitter not ready")
		}
		g.out(0x3f8, b)
	}
	g.out(0x3fa, 7)
	if n, err := c.COM1.Send(context.Background(), []byte("ab")); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if got := string([]byte{g.in(0x3f8), g.in(0x3f8)}); got != "ab" || g.in(0x3fd)&1 != 0 {
		t.Fatalf("received %q", got)
	}
	g.out(chipset.PortSMI, chipset.SMIEnable)
	g.ports.Write(chipset.PortPM1Event+2, 2, 1<<8)
	if !c.PM.PowerButton() || !ln.high(chipset.SCI) {
		t.Fatal("power button not seen")
	}
	g.ports.Write(chipset.PortPM1Event, 2, 1<<8)
	if ln.high(chipset.SCI) {
		t.Fatal("SCI stays high")
	}
	g.ports.Write(chipset.PortPM1Cntl, 2, 5<<10|1<<13)
	g.out(chipset.PortReset, chipset.ResetValue)
	g.out(0x64, 0xfe)
	g.out(0x92, 1)
	if offs != 1 || resets != 3 {
		t.Fatalf("%d power offs, %d resets", offs, resets)
	}
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	c.Reset()
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	if v, _ := g.ports.Read(chipset.PortPM1Cntl, 2); v != 0 {
		t.Fatalf("PM1_CNT %#x after reset", v)
	}
	c.Halt()
	if out.String() != "hello\n" {
		t.Fatalf("transmitted %q", out.String())
	}
	if _, err := c.COM1.Input().Write([]byte("x")); err != chipset.ErrHalted {
		t.Fatalf("input after halt: %v", err)
	}
}
