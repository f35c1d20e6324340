// SPDX-License-Identifier: BSD-2-Clause

package chipset

import (
	"sync"

	"github.com/skepvm/skep/vmm/bus"
)

// Ports of the keyboard controller.
const (
	PortKeyboard        = 0x60
	PortKeyboardCommand = 0x64
)

const (
	kbdOutFull, kbdCommand, kbdUnlocked = 0x01, 0x08, 0x10 // status
	kbdCfgIRQ1, kbdCfgSystem            = 0x01, 0x04       // configuration byte
	kbdCfgKbdOff, kbdCfgAuxOff          = 0x10, 0x20
	kbdQueue                            = 16
)

// I8042 is a keyboard controller with a keyboard that nobody presses: it resets
// the machine, and it answers a driver's probe at once. There is no mouse.
type I8042 struct {
	reset func()
	irq   func(bool) // line 1

	mu      sync.Mutex
	cfg     byte
	outPort byte
	command byte // that waits for its data byte, 0 for none
	kbdArg  bool // the keyboard's last command waits for its argument
	lastCmd bool // the last write was a command
	queue   [kbdQueue]byte
	qLen    int
	level   bool
	paused  bool
}

// NewI8042 makes the controller. reset is called on the vCPU's thread and must
// not block; irq drives line 1. Either may be nil.
func NewI8042(reset func(), irq func(level bool)) *I8042 {
	k := &I8042{reset: reset, irq: irq}
	if reset == nil {
		k.reset = func() {}
	}
	if irq == nil {
		k.irq = func(bool) {}
	}
	k.Reset()
	return k
}

// Map puts both ports on the port bus.
func (k *I8042) Map(ports *bus.Bus) error {
	if err := ports.Map(PortKeyboard, 1, kbdPort{k, false}); err != nil {
		return err
	}
	return ports.Map(PortKeyboardCommand, 1, kbdPort{k, true})
}

type kbdPort struct {
	k       *I8042
	command bool
}

// Read implements bus.Device.
func (p kbdPort) Read(_ uint64, size int) uint64 {
	if size != 1 {
		return ^uint64(0)
	}
	k := p.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if p.command {
		v := byte(kbdUnlocked) | k.cfg&kbdCfgSystem
		if k.qLen > 0 {
			v |= kbdOutFull
		}
		if k.lastCmd {
			v |= kbdCommand
		}
		return uint64(v)
	}
	v := k.queue[0]
	if k.qLen > 0 {
		k.qLen--
		copy(k.queue[:], k.queue[1:k.qLen+1])
		// The line falls with each byte, so that the next one is an edge.
		k.drive(false)
		k.update()
	}
	return uint64(v)
}

// Write implements bus.Device.
func (p kbdPort) Write(_ uint64, size int, v uint64) {
	if size != 1 {
		return
	}
	k := p.k
	k.mu.Lock()
	k.lastCmd = p.command
	reset := false
	if p.command {
		reset = k.control(byte(v))
	} else {
		reset = k.data(byte(v))
	}
	k.update()
	k.mu.Unlock()
	if reset {
		k.reset()
	}
}

// control takes a command for the controller and reports whether it is a reset.
func (k *I8042) control(c byte) bool {
	k.command = 0
	switch {
	case c == 0x20:
		k.put(k.cfg)
	case c == 0x60, c == 0xd1, c == 0xd2, c == 0xd3, c == 0xd4:
		k.command = c
	case c == 0xa7:
		k.cfg |= kbdCfgAuxOff
	case c == 0xa8:
		k.cfg &^= kbdCfgAuxOff
	case c == 0xa9:
		k.put(0x02) // the mouse's clock line is stuck: there is none
	case c == 0xaa:
		k.cfg |= kbdCfgSystem
		k.put(0x55)
	case c == 0xab:
		k.put(0x00)
	case c == 0xad:
		k.cfg |= kbdCfgKbdOff
	case c == 0xae:
		k.cfg &^= kbdCfgKbdOff
	case c == 0xd0:
		k.put(k.outPort)
	case c >= 0xf0: // pulse the lines whose bits are clear; bit 0 is the reset
		return c&1 == 0
	}
	return false
}

// data takes a byte for the controller or the keyboard.
func (k *I8042) data(b byte) bool {
	c := k.command
	k.command = 0
	switch c {
	case 0x60:
		k.cfg = b
		return false
	case 0xd1:
		k.outPort = b
		return b&1 == 0
	case 0xd2:
		k.put(b)
		return false
	case 0xd3, 0xd4: // to a mouse that is not there
		return false
	}
	k.cfg &^= kbdCfgKbdOff // writing to the keyboard enables it
	if k.kbdArg {
		k.kbdArg = false
		k.put(0xfa)
		return false
	}
	switch b {
	case 0xff: // reset and self test
		k.put(0xfa, 0xaa)
	case 0xf2: // identify
		k.put(0xfa, 0xab, 0x83)
	case 0xee: // echo
		k.put(0xee)
	case 0xed, 0xf0, 0xf3: // lights, scan code set, repeat rate: an argument follows
		k.kbdArg = true
		k.put(0xfa)
	case 0xf4, 0xf5, 0xf6:
		k.put(0xfa)
	default:
		k.put(0xfe)
	}
	return false
}

// put queues answers; what does not fit is lost, as in the hardware.
func (k *I8042) put(b ...byte) {
	k.qLen += copy(k.queue[k.qLen:], b)
}

func (k *I8042) update() { k.drive(k.qLen > 0 && k.cfg&kbdCfgIRQ1 != 0) }

func (k *I8042) drive(level bool) {
	if level != k.level && !(level && k.paused) {
		k.level = level
		k.irq(level)
	}
}

// Start does nothing: the controller has no work of its own.
func (k *I8042) Start() {}

// Pause holds interrupts back.
func (k *I8042) Pause() { k.setPaused(true) }

// Resume lets interrupts through.
func (k *I8042) Resume() { k.setPaused(false) }

func (k *I8042) setPaused(v bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.paused = v
	k.update()
}

// Reset takes the controller to the state in which firmware leaves it.
func (k *I8042) Reset() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cfg, k.outPort = kbdCfgSystem|kbdCfgAuxOff, 0x03 // not in reset, A20 open
	k.command, k.kbdArg, k.lastCmd, k.qLen = 0, false, false, 0
	k.update()
}

// Halt does nothing.
func (k *I8042) Halt() {}
