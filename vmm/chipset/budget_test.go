// SPDX-License-Identifier: BSD-2-Clause

package chipset_test

import (
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/chipset"
)

// tally is a chipset's surroundings, which count what is asked of them.
type tally struct {
	clock, timers, lines, resets, offs int
}

func (c *tally) Now() time.Time {
	c.clock++
	return noon.Add(time.Duration(c.clock) * time.Microsecond)
}

func (c *tally) AfterFunc(time.Duration, func()) chipset.Timer { c.timers++; return c }
func (c *tally) Stop() bool                                    { return true }

// TestBudget: whatever a guest does with a part's registers, an access costs
// little: of memory, of the host's timers, of interrupts.
func TestBudget(t *testing.T) {
	const accesses = 100000
	for _, c := range []struct {
		name         string
		first, ports uint64
		bytes        uint64 // of memory an access, for its timers
	}{
		{"UART", chipset.PortCOM1, 8, 0},
		{"RTC", chipset.PortRTC, 2, 128},
		{"i8042 data", chipset.PortKeyboard, 1, 0},
		{"i8042 command", chipset.PortKeyboardCommand, 1, 0},
		{"PM event", chipset.PortPM1Event, 4, 0},
		{"PM control", chipset.PortPM1Cntl, 2, 0},
		{"PM timer", chipset.PortPMTimer, 4, 0},
		{"SMI", chipset.PortSMI, 1, 0},
		{"port A", 0x92, 1, 0},
		{"reset", chipset.PortReset, 1, 0},
		{"delay", 0x80, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &tally{}
			ch, err := chipset.New(chipset.Config{
				SetIRQ: func(int, bool) { n.lines++ }, Clock: n, COM1: io.Discard,
				LowMem: 64 << 20, Reset: func() { n.resets++ }, PowerOff: func() { n.offs++ },
			})
			if err != nil {
				t.Fatal(err)
			}
			g := guest{t: t}
			if err := ch.Map(&g.ports); err != nil {
				t.Fatal(err)
			}
			if err := g.ports.Map(chipset.PortReset, 1, ch.ResetControl); err != nil {
				t.Fatal(err)
			}
			if err := ch.Start(); err != nil {
				t.Fatal(err)
			}
			rnd := rand.New(rand.NewPCG(1, c.first))
			*n = tally{clock: n.clock}
			start := n.clock
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range accesses {
				// A width may reach beyond the part's ports.
				at, size := c.first+rnd.Uint64N(c.ports), 1<<rnd.IntN(4)
				if rnd.IntN(2) == 0 {
					g.ports.Read(at, size)
				} else {
					g.ports.Write(at, size, rnd.Uint64())
				}
			}
			runtime.ReadMemStats(&after)
			ch.Halt()
			if got := after.TotalAlloc - before.TotalAlloc; got > 128<<10+accesses*c.bytes {
				t.Errorf("%d bytes allocated for %d accesses", got, accesses)
			}
			for what, got := range map[string]int{"looks at the clock": n.clock - start, "timers": n.timers, "changes of a line": n.lines,
				"resets": n.resets, "power offs": n.offs} {
				if got > 2*accesses {
					t.Errorf("%d %s for %d accesses", got, what, accesses)
				}
			}
		})
	}
}
