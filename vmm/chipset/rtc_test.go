// SPDX-License-Identifier: BSD-2-Clause

package chipset_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/chipset"
)

type rtcRig struct {
	guest
	r     *chipset.RTC
	clock *fakeClock
	lines
}

var noon = time.Date(2026, time.November, 20, 12, 34, 56, 0, time.UTC)

func newRTC(t testing.TB) *rtcRig {
	t.Helper()
	g := &rtcRig{guest: guest{t: t}, clock: newClock(noon)}
	g.r = chipset.NewRTC(chipset.RTCConfig{IRQ: func(v bool) { g.set(8, v) }, Clock: g.clock,
		LowMem: 3 << 30, HighMem: 5 << 30})
	if err := g.ports.Map(chipset.PortRTC, 2, g.r); err != nil {
		t.Fatal(err)
	}
	g.r.Start()
	return g
}

func (g *rtcRig) get(reg byte) byte { g.t.Helper(); g.out(0x70, reg); return g.in(0x71) }

func (g *rtcRig) put(reg, v byte) { g.t.Helper(); g.out(0x70, reg); g.out(0x71, v) }

func (g *rtcRig) shows(what, want string) {
	g.t.Helper()
	if got := fmt.Sprintf("%02x%02x-%02x-%02x %02x:%02x:%02x", g.get(0x32), g.get(9), g.get(8), g.get(7), g.get(4), g.get(2), g.get(0)); got != want {
		g.t.Errorf("%s: the clock shows %s, wanted %s", what, got, want)
	}
}

func TestRTCTime(t *testing.T) {
	g := newRTC(t)
	g.shows("at first", "2026-11-20 12:34:56")
	if d := g.get(6); d != 6 {
		t.Errorf("day of the week %d, wanted 6 (Friday)", d)
	}
	if g.get(0xd) != 0x80 || g.get(0xb) != 2 || g.get(0xa) != 0x26 {
		t.Error("registers A, B, D")
	}
	g.clock.advance(11*time.Hour + 25*time.Minute + 4*time.Second)
	g.shows("at midnight", "2026-11-21 00:00:00")
	g.put(0xb, 6) // binary
	g.shows("in binary", "141a-0b-15 00:00:00")
	g.put(0xb, 0) // BCD, twelve hours
	g.shows("twelve hours", "2026-11-21 12:00:00")
	g.clock.advance(13 * time.Hour)
	g.shows("after noon", "2026-11-21 81:00:00")
	g.clock.advance(time.Second - 244*time.Microsecond)
	if g.get(0xa)&0x80 == 0 {
		t.Error("no update in progress just before the second ends")
	}
	g.clock.advance(244 * time.Microsecond)
	if g.get(0xa)&0x80 != 0 {
		t.Error("update in progress after the second began")
	}
}

// TestRTCSet sets the clock as Linux does: SET, then the registers, then SET off.
func TestRTCSet(t *testing.T) {
	g := newRTC(t)
	g.put(0xb, 0x82)
	g.clock.advance(10 * time.Second)
	g.shows("stopped", "2026-11-20 12:34:56")
	for reg, v := range map[byte]byte{0: 0x59, 2: 0x59, 4: 0x23, 7: 0x31, 8: 0x12, 9: 0x99, 0x32: 0x20} {
		g.put(reg, v)
	}
	g.put(0xb, 0x02)
	g.shows("set", "2099-12-31 23:59:59")
	g.clock.advance(time.Second)
	g.shows("and running", "2100-01-01 00:00:00")
	// One register alone, as FreeBSD's nvram(4) users do.
	g.put(4, 0x07)
	g.shows("hour", "2100-01-01 07:00:00")
	// Nonsense is a time all the same.
	for reg := byte(0); reg < 10; reg++ {
		g.put(reg, 0xff)
	}
	g.put(0x32, 0xff)
	for reg := byte(0); reg < 10; reg++ {
		g.get(reg)
	}
	g.clock.advance(time.Hour)
}

func TestRTCPeriodic(t *testing.T) {
	g := newRTC(t)
	if n := g.clock.advance(time.Hour); n != 0 {
		t.Errorf("%d calls for a guest that asked for none", n)
	}
	if g.get(0xc) != 0x50 || g.get(0xc) != 0 {
		t.Error("flags without interrupts")
	}
	g.put(0xb, 0x42) // 1024 Hz
	for i := range 2048 {
		if n := g.clock.advance(977 * time.Microsecond); n != 1 || !g.high(8) {
			t.Fatalf("interrupt %d: %d calls, line %v", i, n, g.high(8))
		}
		if c := g.get(0xc); c&0xc0 != 0xc0 || g.high(8) {
			t.Fatalf("interrupt %d: C %#x, line %v", i, c, g.high(8))
		}
	}
	// Not acknowledged: it costs nothing more.
	g.clock.advance(time.Millisecond)
	if n := g.clock.advance(time.Hour); n != 0 || g.rises(8) != 2049 {
		t.Errorf("%d calls and %d interrupts for a guest that does not listen", n, g.rises(8))
	}
	g.get(0xc)
	for rate, want := range map[byte]int{3: 8192, 6: 1024, 15: 2, 1: 256, 2: 128, 0: 0} {
		g.put(0xa, 0x20|rate)
		g.get(0xc)
		start := g.rises(8)
		for end := g.clock.Now().Add(time.Second); g.clock.Now().Before(end); {
			g.clock.advance(50 * time.Microsecond)
			if g.high(8) {
				g.get(0xc)
			}
		}
		if n := g.rises(8) - start; n < want-want/100-1 || n > want+want/100+1 {
			t.Errorf("rate %d: %d interrupts in a second, wanted %d", rate, n, want)
		}
	}
}

func TestRTCUpdateAndAlarm(t *testing.T) {
	g := newRTC(t)
	g.put(0xb, 0x12)
	for range 5 {
		g.clock.advance(time.Second)
		if c := g.get(0xc); c&0xd0&^0x40 != 0x90 {
			t.Errorf("C %#x", c)
		}
	}
	// An alarm at 12:40:00.
	g.put(1, 0x00)
	g.put(3, 0x40)
	g.put(5, 0x12)
	g.get(0xc)
	g.put(0xb, 0x22)
	g.clock.advance(5*time.Minute - 2*time.Second)
	if g.high(8) || g.get(0xc)&0x20 != 0 {
		t.Fatal("the alarm is early")
	}
	if n := g.clock.advance(time.Second); n != 1 || !g.high(8) || g.get(0xc)&0xa0 != 0xa0 {
		t.Fatal("no alarm")
	}
	if n := g.clock.advance(24*time.Hour - time.Second); n != 0 {
		t.Errorf("%d calls in a day without an alarm", n)
	}
	g.clock.advance(time.Second)
	if g.get(0xc)&0x20 == 0 {
		t.Error("no alarm on the next day")
	}
	// Every minute at second 0, polled, without an interrupt.
	g.put(0xb, 2)
	g.put(3, 0xc0)
	g.put(5, 0xff)
	g.get(0xc)
	g.clock.advance(59 * time.Second)
	if g.get(0xc)&0x30 != 0x10 {
		t.Error("59 s: update, but no alarm yet")
	}
	g.clock.advance(time.Second)
	if g.get(0xc)&0x30 != 0x30 {
		t.Error("60 s: no alarm")
	}
	// One that never comes.
	g.put(5, 0x47)
	g.put(0xb, 0x22)
	if g.clock.pending() != 0 {
		t.Error("a call is arranged for 47 o'clock")
	}
}

func TestRTCMemory(t *testing.T) {
	g := newRTC(t)
	word := func(reg byte) int { return int(g.get(reg)) | int(g.get(reg+1))<<8 }
	if word(0x15) != 640 || word(0x17) != 0xffff || word(0x30) != 0xffff {
		t.Error("memory below 64 MiB")
	}
	if got, want := word(0x34), (3<<30-16<<20)>>16; got != want {
		t.Errorf("memory below the hole: %#x, wanted %#x", got, want)
	}
	if got, want := word(0x5b)|int(g.get(0x5d))<<16, 5<<30>>16; got != want {
		t.Errorf("memory above 4 GiB: %#x, wanted %#x", got, want)
	}
	for reg := byte(0x0e); reg < 0x80; reg++ {
		if reg == 0x32 {
			continue
		}
		g.put(reg, ^reg)
	}
	g.r.Pause()
	g.r.Reset()
	g.r.Resume()
	for reg := byte(0x0e); reg < 0x80; reg++ {
		if reg != 0x32 && g.get(reg|0x80) != ^reg { // bit 7 masks NMI
			t.Errorf("register %#x forgets", reg)
		}
	}
}

func TestRTCLife(t *testing.T) {
	g := newRTC(t)
	g.put(0xb, 0x52)
	g.r.Pause()
	if g.clock.pending() != 0 {
		t.Error("a call is arranged while paused")
	}
	g.clock.advance(time.Hour)
	if g.high(8) {
		t.Error("an interrupt while paused")
	}
	g.r.Resume()
	if !g.high(8) || g.rises(8) != 1 {
		t.Errorf("%d interrupts after resume", g.rises(8))
	}
	g.shows("the time of day has gone on", "2026-11-20 13:34:56")
	g.put(0xb, 0xd2) // SET
	g.r.Pause()
	g.r.Reset()
	if g.high(8) || g.clock.pending() != 0 {
		t.Error("an interrupt after reset")
	}
	g.r.Resume()
	if b := g.get(0xb); b != 2 {
		t.Errorf("B %#x after reset", b)
	}
	g.put(0xb, 0x42)
	g.r.Halt()
	if g.clock.pending() != 0 {
		t.Error("a call is arranged after halt")
	}
	// The host's clock may jump either way.
	g.clock.jump(noon.AddDate(-30, 0, 0))
	g.shows("after a jump", "1996-11-20 12:34:56")
}

// FuzzRTC plays register accesses and passing time.
func FuzzRTC(f *testing.F) {
	f.Add([]byte{0x8b, 0x52, 0x40, 9, 0x0c, 0})
	f.Add([]byte{0x8b, 0x82, 0x84, 0xff, 0x89, 0xff, 0xb2, 0xff, 0x8b, 0x22, 0x40, 200})
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 512 {
			return
		}
		g := newRTC(t)
		for ; len(ops) >= 2; ops = ops[2:] {
			switch reg := ops[0] & 0x3f; {
			case ops[0]&0x40 != 0: // time: microseconds to days, not too many interrupts at once
				d := time.Duration(ops[1]) << (reg % 24) * time.Microsecond
				if n := g.clock.advance(d); n > 3 {
					t.Fatalf("%d calls that nobody listened to", n)
				}
			case ops[0]&0x80 != 0:
				g.put(reg, ops[1])
			default:
				g.get(reg)
			}
			if g.clock.pending() > 1 {
				t.Fatalf("%d calls are arranged", g.clock.pending())
			}
		}
		g.r.Pause()
		g.r.Reset()
		if g.high(8) || g.clock.pending() != 0 {
			t.Fatal("not quiet after a reset")
		}
	})
}
