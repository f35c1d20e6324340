// SPDX-License-Identifier: BSD-2-Clause

package chipset

import (
	"sync"
	"time"
)

// Registers and bits of the MC146818A (Motorola data sheet, "Address map") and
// of the IBM AT's use of its memory.
const (
	rtcSec, rtcSecAlarm   = 0, 1
	rtcMin, rtcMinAlarm   = 2, 3
	rtcHour, rtcHourAlarm = 4, 5
	rtcWday, rtcDay       = 6, 7
	rtcMonth, rtcYear     = 8, 9
	rtcA, rtcB, rtcC      = 10, 11, 12
	rtcD                  = 13
	rtcCentury            = 0x32 // FADT says so

	rtcUIP                = 0x80 // A
	rtcSET                = 0x80 // B
	rtcBinary, rtc24      = 0x04, 0x02
	rtcIRQF               = 0x80             // C
	rtcPF, rtcAF, rtcUF   = 0x40, 0x20, 0x10 // C; the same bits of B enable them
	rtcVRT                = 0x80             // D
	rtcDividerOn          = 0x20             // A bits 4-6 = 010: a 32.768 kHz crystal
	rtcUpdateCycle        = 244 * time.Microsecond
	rtcCMOS               = 128
	rtcBaseMem, rtcExtMem = 0x15, 0x17 // KiB, two bytes each
	rtcExtMem2            = 0x30
	rtcMem16M, rtcMem4G   = 0x34, 0x5b // 64 KiB units; above 16 MiB, above 4 GiB (three bytes)
)

// RTCConfig configures the clock.
type RTCConfig struct {
	// IRQ drives line 8. nil leaves it unconnected.
	IRQ func(level bool)
	// Clock is where the time of day comes from; the guest sees UTC. nil is
	// SystemClock.
	Clock Clock
	// LowMem and HighMem are the guest's memory below the PCI hole and above
	// 4 GiB, in bytes, which firmware reads from the clock's memory.
	LowMem, HighMem uint64
}

// RTC is the MC146818A real-time clock with 128 bytes of memory, behind an
// index port (offset 0) and a data port (offset 1). It has no battery beyond
// the process: the guest may set it, which moves it against the host's clock.
type RTC struct {
	irq   func(bool)
	clock Clock

	mu     sync.Mutex
	index  byte
	cmos   [rtcCMOS]byte // all but the time, registers A-D and the century
	a, b   byte
	flags  byte          // PF, AF, UF
	offset time.Duration // of the guest's clock from the host's
	held   rtcFields     // the time while SET stops it
	seen   time.Time     // flags are right up to here, in the guest's time
	timer  Timer
	gen    uint64 // of timer, to tell a late call
	level  bool
	run    bool // started and neither paused nor halted
}

// rtcFields is the time as the registers hold it, decoded.
type rtcFields struct{ sec, min, hour, wday, day, month, year, century int }

// NewRTC makes a clock that shows the host's time.
func NewRTC(cfg RTCConfig) *RTC {
	r := &RTC{irq: cfg.IRQ, clock: cfg.Clock, a: 0x26, b: rtc24}
	if r.irq == nil {
		r.irq = func(bool) {}
	}
	if r.clock == nil {
		r.clock = SystemClock{}
	}
	put := func(at int, v uint64, n int) {
		for i := range n {
			r.cmos[at+i] = byte(v >> (8 * i))
		}
	}
	above := func(v, base uint64) uint64 { return max(v, base) - base }
	put(rtcBaseMem, 640, 2)
	ext := min(above(cfg.LowMem, 1<<20)>>10, 0xffff)
	put(rtcExtMem, ext, 2)
	put(rtcExtMem2, ext, 2)
	put(rtcMem16M, min(above(cfg.LowMem, 16<<20)>>16, 0xffff), 2)
	put(rtcMem4G, min(cfg.HighMem>>16, 0xffffff), 3)
	r.seen = r.now()
	return r
}

// now is the guest's time of day.
func (r *RTC) now() time.Time { return r.clock.Now().Add(r.offset).UTC() }

func fieldsOf(t time.Time) rtcFields {
	return rtcFields{t.Second(), t.Minute(), t.Hour(), int(t.Weekday()) + 1, t.Day(), int(t.Month()),
		t.Year() % 100, t.Year() / 100}
}

func (f *rtcFields) time() time.Time {
	return time.Date(f.century*100+f.year, time.Month(f.month), f.day, f.hour, f.min, f.sec, 0, time.UTC)
}

// field returns the part of f that register i shows, nil for another register.
func (f *rtcFields) field(i byte) *int {
	switch i {
	case rtcSec:
		return &f.sec
	case rtcMin:
		return &f.min
	case rtcHour:
		return &f.hour
	case rtcWday:
		return &f.wday
	case rtcDay:
		return &f.day
	case rtcMonth:
		return &f.month
	case rtcYear:
		return &f.year
	case rtcCentury:
		return &f.century
	}
	return nil
}

func (r *RTC) encode(i byte, v int) byte {
	pm := byte(0)
	if i == rtcHour && r.b&rtc24 == 0 {
		if v >= 12 {
			pm = 0x80
		}
		v = (v+11)%12 + 1
	}
	if r.b&rtcBinary != 0 {
		return byte(v) | pm
	}
	return byte(v/10%10<<4|v%10) | pm
}

func (r *RTC) decode(i, b byte) int {
	pm := false
	if (i == rtcHour || i == rtcHourAlarm) && r.b&rtc24 == 0 {
		pm = b&0x80 != 0
		b &= 0x7f
	}
	v := int(b)
	if r.b&rtcBinary == 0 {
		v = int(b>>4)*10 + int(b&0xf)
	}
	if (i == rtcHour || i == rtcHourAlarm) && r.b&rtc24 == 0 {
		v %= 12
		if pm {
			v += 12
		}
	}
	return v
}

// Read implements bus.Device.
func (r *RTC) Read(off uint64, size int) uint64 {
	if size != 1 || off > 1 {
		return ^uint64(0)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if off == 0 {
		return uint64(r.index) | 0x80
	}
	now := r.now()
	switch i := r.index; i {
	case rtcA:
		v := r.a
		if r.ticking() && now.Nanosecond() >= int(time.Second-rtcUpdateCycle) {
			v |= rtcUIP
		}
		return uint64(v)
	case rtcB:
		return uint64(r.b)
	case rtcC:
		r.advance(now)
		v := r.flags
		if v&r.b != 0 {
			v |= rtcIRQF
		}
		r.flags = 0
		r.update()
		r.arm(now)
		return uint64(v)
	case rtcD:
		return rtcVRT
	default:
		f := r.held
		if r.b&rtcSET == 0 {
			f = fieldsOf(now)
		}
		if p := f.field(i); p != nil {
			return uint64(r.encode(i, *p))
		}
		return uint64(r.cmos[i])
	}
}

// Write implements bus.Device.
func (r *RTC) Write(off uint64, size int, v uint64) {
	if size != 1 || off > 1 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if off == 0 {
		r.index = byte(v) & (rtcCMOS - 1) // bit 7 masks NMI, of which there is none
		return
	}
	now, b := r.now(), byte(v)
	r.advance(now)
	switch i := r.index; i {
	case rtcA:
		r.a = b & 0x7f
		r.seen = now
	case rtcB:
		old := r.b
		if b&rtcSET != 0 {
			b &^= rtcUF // the data sheet: SET clears UIE
		}
		r.b = b
		switch {
		case b&^old&rtcSET != 0:
			r.held = fieldsOf(now)
		case old&^b&rtcSET != 0:
			r.set(&r.held)
		}
	case rtcC, rtcD:
	default:
		f := &r.held
		if r.b&rtcSET == 0 {
			t := fieldsOf(now)
			f = &t
		}
		if p := f.field(i); p != nil {
			*p = r.decode(i, b)
			if r.b&rtcSET == 0 && i != rtcWday {
				r.set(f)
			}
		} else {
			r.cmos[i] = b
		}
	}
	r.update()
	r.arm(r.now())
}

// set makes the guest's clock show f from now on.
func (r *RTC) set(f *rtcFields) {
	t := f.time()
	r.offset = t.Sub(r.clock.Now()) // saturates at 292 years: a time, if a wrong one
	r.seen = r.now()
}

// ticking tells whether seconds pass.
func (r *RTC) ticking() bool { return r.b&rtcSET == 0 && r.a&0x70 == rtcDividerOn }

// period of the periodic interrupt, 0 for none.
func (r *RTC) period() time.Duration {
	rate := r.a & 0xf
	if rate == 0 || r.a&0x70 != rtcDividerOn {
		return 0
	}
	if rate <= 2 {
		rate += 7
	}
	return time.Second / time.Duration(32768>>(rate-1))
}

// advance sets the flags for what happened after r.seen and not after now.
func (r *RTC) advance(now time.Time) {
	last := r.seen
	r.seen = now
	if !now.After(last) {
		return
	}
	if p := r.period(); p != 0 && (now.Sub(last) >= p || now.Nanosecond()/int(p) != last.Nanosecond()/int(p)) {
		r.flags |= rtcPF
	}
	if !r.ticking() || now.Unix() == last.Unix() {
		return
	}
	r.flags |= rtcUF
	if at, ok := r.nextAlarm(last); ok && !at.After(now) {
		r.flags |= rtcAF
	}
}

// nextAlarm returns the first second after t at which the alarm matches.
func (r *RTC) nextAlarm(t time.Time) (time.Time, bool) {
	match := func(reg byte, v int) bool {
		b := r.cmos[reg]
		return b&0xc0 == 0xc0 || r.decode(reg, b) == v
	}
	t = t.Truncate(time.Second).Add(time.Second)
	for range 2 * (24 + 60 + 60) { // each field at most twice around
		switch {
		case !match(rtcHourAlarm, t.Hour()):
			t = t.Truncate(time.Hour).Add(time.Hour)
		case !match(rtcMinAlarm, t.Minute()):
			t = t.Truncate(time.Minute).Add(time.Minute)
		case !match(rtcSecAlarm, t.Second()):
			t = t.Add(time.Second)
		default:
			return t, true
		}
	}
	return t, false
}

// update drives the line.
func (r *RTC) update() {
	level := r.flags&r.b&(rtcPF|rtcAF|rtcUF) != 0
	if level != r.level && (r.run || !level) {
		r.level = level
		r.irq(level)
	}
}

// arm arranges a call for the next event that would raise an interrupt. A flag
// that the guest has not read yet needs none, so an idle guest costs nothing.
func (r *RTC) arm(now time.Time) {
	r.gen++
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	want := r.b &^ r.flags & (rtcPF | rtcAF | rtcUF)
	if !r.run || r.level || want == 0 {
		return
	}
	next, any := time.Duration(0), false
	add := func(d time.Duration) {
		if !any || d < next {
			next, any = d, true
		}
	}
	if p := r.period(); want&rtcPF != 0 && p != 0 {
		add(p - time.Duration(now.Nanosecond())%p)
	}
	if want&rtcUF != 0 && r.ticking() {
		add(time.Second - time.Duration(now.Nanosecond()))
	}
	if want&rtcAF != 0 && r.ticking() {
		if at, ok := r.nextAlarm(now); ok {
			add(at.Sub(now))
		}
	}
	if !any {
		return
	}
	gen := r.gen
	r.timer = r.clock.AfterFunc(next, func() { r.expire(gen) })
}

func (r *RTC) expire(gen uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if gen != r.gen {
		return
	}
	now := r.now()
	r.advance(now)
	r.update()
	r.arm(now)
}

func (r *RTC) setRun(run bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.run = run
	now := r.now()
	r.advance(now)
	r.update()
	r.arm(now)
}

// Start lets interrupts begin.
func (r *RTC) Start() { r.setRun(true) }

// Pause stops interrupts; the time of day goes on.
func (r *RTC) Pause() { r.setRun(false) }

// Resume lets interrupts go on; one that fell due meanwhile comes now.
func (r *RTC) Resume() { r.setRun(true) }

// Halt stops interrupts for good.
func (r *RTC) Halt() { r.setRun(false) }

// Reset does what the RESET pin does: interrupts are disabled, time and memory
// stay.
func (r *RTC) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index = 0
	r.b &^= rtcPF | rtcAF | rtcUF
	r.flags = 0
	r.b &^= rtcSET // a guest that died while setting it must not stop it for good
	r.update()
	r.arm(r.now())
}
