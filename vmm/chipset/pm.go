// SPDX-License-Identifier: BSD-2-Clause

package chipset

import (
	"sync"
	"time"

	"github.com/skepvm/skep/vmm/bus"
)

// Ports of power management, as bhyve places them. Package acpi puts them into
// the FADT.
const (
	PortSMI      = 0xb2  // SMI_CMD
	PortPM1Event = 0x400 // PM1a_EVT_BLK: status, enable
	PortPM1Cntl  = 0x404 // PM1a_CNT_BLK
	PortPMTimer  = 0x408 // PM_TMR_BLK; the kernel's own on bhyve
	PortGPE0     = 0x40c // GPE0_BLK: two bytes of status, two of enable

	// SCI is the interrupt line of power management.
	SCI = 9
	// SMIEnable and SMIDisable are the commands at PortSMI that turn ACPI mode
	// on and off.
	SMIEnable, SMIDisable = 0xa0, 0xa1
	// SleepS5 is SLP_TYP for power off.
	SleepS5 = 5
)

// Bits of the fixed registers (ACPI 6.5, section 4.8.3).
const (
	pm1Global, pm1PowerButton = 1 << 5, 1 << 8 // PM1_STS and PM1_EN
	pm1RTC                    = 1 << 10        // can be enabled, never happens
	pm1SciEn, pm1BusMaster    = 1 << 0, 1 << 1 // PM1_CNT
	pm1SleepType, pm1SleepEn  = 7 << 10, 1 << 13
)

// PMConfig configures power management.
type PMConfig struct {
	// SCI drives line 9. nil leaves it unconnected.
	SCI func(level bool)
	// PowerOff is called on the vCPU's thread when the guest enters S5; it must
	// not block. nil ignores it.
	PowerOff func()
}

// PM is ACPI's fixed hardware: power button, sleep control, general purpose
// events (none happen), and the switch into ACPI mode.
type PM struct {
	sci      func(bool)
	powerOff func()

	mu       sync.Mutex
	sts, en  uint16
	cnt      uint16
	gpeEn    uint16
	smi      byte
	level    bool
	paused   bool
	poweroff bool // S5 was asked for since the last Reset
}

// NewPM makes power management in its power-on state: not in ACPI mode.
func NewPM(cfg PMConfig) *PM {
	p := &PM{sci: cfg.SCI, powerOff: cfg.PowerOff}
	if p.sci == nil {
		p.sci = func(bool) {}
	}
	if p.powerOff == nil {
		p.powerOff = func() {}
	}
	return p
}

// Map puts the registers on the port bus.
func (p *PM) Map(ports *bus.Bus) error {
	for _, m := range []struct {
		port, size uint64
		dev        bus.Device
	}{
		{PortSMI, 1, pmSMI{p}},
		{PortPM1Event, 4, pmBlock{p, 0}},
		{PortPM1Cntl, 2, pmBlock{p, 4}},
		{PortGPE0, 4, pmBlock{p, 12}},
	} {
		if err := ports.Map(m.port, m.size, m.dev); err != nil {
			return err
		}
	}
	return nil
}

// PowerButton presses the power button. It reports whether the guest listens:
// false when it is not in ACPI mode or has not enabled the button.
func (p *PM) PowerButton() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sts |= pm1PowerButton
	p.update()
	return p.cnt&pm1SciEn != 0 && p.en&pm1PowerButton != 0
}

func (p *PM) update() {
	level := p.cnt&pm1SciEn != 0 && p.sts&p.en != 0
	if level != p.level && !(level && p.paused) {
		p.level = level
		p.sci(level)
	}
}

// pmBlock is one register block; base is the offset of its first byte from
// PortPM1Event. Accesses of 1, 2 and 4 bytes are taken, naturally aligned.
type pmBlock struct {
	p    *PM
	base uint64
}

func aligned(off uint64, size int) bool {
	return (size == 1 || size == 2 || size == 4) && off%uint64(size) == 0
}

// Read implements bus.Device.
func (d pmBlock) Read(off uint64, size int) uint64 {
	if !aligned(off, size) {
		return ^uint64(0)
	}
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	var v uint64
	for i := range size {
		at := d.base + off + uint64(i)
		v |= uint64(d.p.reg(at&^1)>>(8*(at&1))&0xff) << (8 * i)
	}
	return v
}

// reg returns the 16-bit register at an even offset from PortPM1Event.
func (p *PM) reg(at uint64) uint16 {
	switch at {
	case 0:
		return p.sts
	case 2:
		return p.en
	case 4:
		return p.cnt
	case 14:
		return p.gpeEn
	}
	return 0 // GPE0 status: nothing ever happens
}

// Write implements bus.Device.
func (d pmBlock) Write(off uint64, size int, v uint64) {
	if !aligned(off, size) {
		return
	}
	p, off5 := d.p, false
	p.mu.Lock()
	for i := 0; i < size; {
		at := d.base + off + uint64(i)
		val, mask, n := uint16(v>>(8*i)), uint16(0xffff), 2
		if size == 1 {
			val, mask, n = val<<(8*(at&1)), 0xff<<(8*(at&1)), 1
		}
		off5 = p.setReg(at&^1, val&mask, mask) || off5
		i += n
	}
	p.update()
	p.mu.Unlock()
	if off5 {
		p.powerOff()
	}
}

// setReg writes the bits of mask and reports whether that is an entry to S5.
func (p *PM) setReg(at uint64, v, mask uint16) bool {
	switch at {
	case 0:
		p.sts &^= v
	case 2:
		p.en = (p.en&^mask | v) & (pm1Global | pm1PowerButton | pm1RTC)
	case 4:
		// SCI_EN belongs to the firmware, SLP_EN reads as zero.
		const settable = pm1BusMaster | pm1SleepType
		p.cnt = p.cnt&^(mask&settable) | v&settable
		if v&pm1SleepEn != 0 && p.cnt&pm1SleepType == SleepS5<<10 && !p.poweroff {
			p.poweroff = true
			return true
		}
	case 14:
		p.gpeEn = p.gpeEn&^mask | v
	}
	return false
}

// pmSMI is SMI_CMD: no system management mode stands behind it.
type pmSMI struct{ p *PM }

// Read implements bus.Device.
func (d pmSMI) Read(_ uint64, size int) uint64 {
	if size != 1 {
		return ^uint64(0)
	}
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	return uint64(d.p.smi)
}

// Write implements bus.Device.
func (d pmSMI) Write(_ uint64, size int, v uint64) {
	if size != 1 {
		return
	}
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	d.p.smi = byte(v)
	switch d.p.smi {
	case SMIEnable:
		d.p.cnt |= pm1SciEn
	case SMIDisable:
		d.p.cnt &^= pm1SciEn
	}
	d.p.update()
}

// Start does nothing: power management has no work of its own.
func (p *PM) Start() {}

// Pause holds interrupts back.
func (p *PM) Pause() { p.setPaused(true) }

// Resume lets interrupts through; a button pressed meanwhile is seen now.
func (p *PM) Resume() { p.setPaused(false) }

func (p *PM) setPaused(v bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = v
	p.update()
}

// Reset takes the registers to their power-on state.
func (p *PM) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sts, p.en, p.cnt, p.gpeEn, p.smi, p.poweroff = 0, 0, 0, 0, 0, false
	p.update()
}

// Halt does nothing.
func (p *PM) Halt() {}

// PMTimerHz is the frequency of the power management timer.
const PMTimerHz = 3579545

// PMTimer is the 32-bit power management timer (ACPI 6.5, section 4.8.2.1). It
// stands still while paused.
type PMTimer struct {
	clock Clock

	mu      sync.Mutex
	base    time.Time     // when elapsed was right, while running
	elapsed time.Duration // at base, or while stopped
	run     bool
}

// NewPMTimer makes a timer that stands at zero until Start. clock nil is
// SystemClock.
func NewPMTimer(clock Clock) *PMTimer {
	if clock == nil {
		clock = SystemClock{}
	}
	return &PMTimer{clock: clock}
}

// Read implements bus.Device: four bytes, aligned.
func (t *PMTimer) Read(off uint64, size int) uint64 {
	if size != 4 || off != 0 {
		return ^uint64(0)
	}
	t.mu.Lock()
	d := t.now()
	t.mu.Unlock()
	// Seconds and the rest apart: the product would overflow after 40 minutes.
	return (uint64(d/time.Second)*PMTimerHz + uint64(d%time.Second)*PMTimerHz/uint64(time.Second)) & 0xffffffff
}

// Write implements bus.Device: the timer cannot be written.
func (t *PMTimer) Write(uint64, int, uint64) {}

func (t *PMTimer) now() time.Duration {
	if !t.run {
		return t.elapsed
	}
	return t.elapsed + max(t.clock.Now().Sub(t.base), 0)
}

func (t *PMTimer) setRun(run bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.elapsed, t.run = t.now(), run
	t.base = t.clock.Now()
}

// Start lets the timer run.
func (t *PMTimer) Start() { t.setRun(true) }

// Pause stops it.
func (t *PMTimer) Pause() { t.setRun(false) }

// Resume lets it run on from where it stopped.
func (t *PMTimer) Resume() { t.setRun(true) }

// Reset does nothing: a free-running timer may have any value.
func (t *PMTimer) Reset() {}

// Halt stops it.
func (t *PMTimer) Halt() { t.setRun(false) }
