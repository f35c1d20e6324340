// SPDX-License-Identifier: BSD-2-Clause

package chipset

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// ErrHalted is returned to the host side of a device that has been halted.
var ErrHalted = errors.New("device halted")

const (
	uartFIFO   = 16          // bytes of the receive FIFO
	uartOutput = 32 << 10    // bytes that the guest may be ahead of Output
	uartGrace  = time.Second // how long Halt waits for a stuck Output
)

// Register offsets and bits of the NS16550A (National Semiconductor PC16550D
// data sheet, section 8).
const (
	uartRBR = 0 // receive (read), THR: transmit (write), DLL with DLAB
	uartIER = 1 // interrupt enable, DLM with DLAB
	uartIIR = 2 // interrupt identification (read), FCR: FIFO control (write)
	uartLCR = 3
	uartMCR = 4
	uartLSR = 5
	uartMSR = 6
	uartSCR = 7

	ierRX, ierTHRE, ierLSR, ierMSR = 0x01, 0x02, 0x04, 0x08

	iirNone, iirMSR, iirTHRE, iirRX, iirLSR, iirTimeout = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0c
	iirFIFO                                             = 0xc0

	fcrEnable, fcrClearRX, fcrClearTX = 0x01, 0x02, 0x04

	lcrDLAB = 0x80

	mcrDTR, mcrRTS, mcrOUT1, mcrOUT2, mcrLoop = 0x01, 0x02, 0x04, 0x08, 0x10

	lsrDR, lsrOE, lsrBI, lsrTHRE, lsrTEMT, lsrFIFOError = 0x01, 0x02, 0x10, 0x20, 0x40, 0x80

	msrCTS, msrDSR, msrRI, msrDCD = 0x10, 0x20, 0x40, 0x80
)

// UARTConfig configures a serial port.
type UARTConfig struct {
	// IRQ drives the interrupt line. nil leaves it unconnected.
	IRQ func(level bool)
	// Output receives what the guest transmits, from one goroutine that Start
	// begins and Halt ends. It may block: up to 32 KiB are buffered, then the
	// guest's transmitter is busy. An error loses the bytes of that call. nil
	// discards.
	Output io.Writer
	// Clock bounds how long Halt waits for Output. nil is SystemClock.
	Clock Clock
}

// UART is a 16550A serial port of eight byte-wide registers. Characters take no
// time on the line; the modem lines say that a peer is there.
type UART struct {
	irq   func(bool)
	out   io.Writer
	clock Clock
	wake  chan struct{} // capacity 1: output is waiting, or stop changed
	done  chan struct{} // closed when the pump has ended

	mu       sync.Mutex
	ier      byte
	fcr      byte
	lcr, mcr byte
	scr      byte
	dll, dlm byte
	overrun  bool
	msrDelta byte
	msrLast  byte
	thre     bool // a THRE interrupt is pending
	level    bool // of the line as last driven
	rx       [uartFIFO]rxByte
	rxHead   int
	rxLen    int
	room     chan struct{} // closed when a waiting Send should look again; nil: nobody waits
	fill     []byte        // transmitted, not yet taken by the pump
	started  bool
	paused   bool
	halted   bool
}

// rxByte is a received character and the line status that came with it.
type rxByte struct{ c, status byte }

// NewUART makes a serial port in its power-on state.
func NewUART(cfg UARTConfig) *UART {
	u := &UART{irq: cfg.IRQ, out: cfg.Output, clock: cfg.Clock,
		wake: make(chan struct{}, 1), done: make(chan struct{})}
	if u.irq == nil {
		u.irq = func(bool) {}
	}
	if u.clock == nil {
		u.clock = SystemClock{}
	}
	if u.out != nil {
		u.fill = make([]byte, 0, uartOutput)
	}
	u.reset()
	return u
}

// reset takes the registers to the master-reset state of the data sheet.
func (u *UART) reset() {
	u.ier, u.fcr, u.lcr, u.mcr, u.scr = 0, 0, 0, 0, 0
	u.dll, u.dlm = 12, 0 // 9600 baud, as firmware leaves it
	u.overrun, u.thre = false, false
	u.rxHead, u.rxLen = 0, 0
	u.msrLast, u.msrDelta = u.modem(), 0
	u.signalRoom()
	u.update()
}

// Read implements bus.Device.
func (u *UART) Read(off uint64, size int) uint64 {
	if size != 1 {
		return ^uint64(0)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	dlab := u.lcr&lcrDLAB != 0
	switch {
	case off == uartRBR && dlab:
		return uint64(u.dll)
	case off == uartIER && dlab:
		return uint64(u.dlm)
	case off == uartRBR:
		c := u.pop()
		u.update()
		return uint64(c)
	case off == uartIER:
		return uint64(u.ier)
	case off == uartIIR:
		v := u.pending()
		if v == iirTHRE {
			u.thre = false
			u.update()
		}
		if u.fcr&fcrEnable != 0 {
			v |= iirFIFO
		}
		return uint64(v)
	case off == uartLCR:
		return uint64(u.lcr)
	case off == uartMCR:
		return uint64(u.mcr)
	case off == uartLSR:
		v := u.lineStatus()
		u.overrun = false
		if u.rxLen > 0 {
			u.rx[u.rxHead].status = 0
		}
		u.update()
		return uint64(v)
	case off == uartMSR:
		v := u.modem() | u.msrDelta
		u.msrDelta = 0
		u.update()
		return uint64(v)
	case off == uartSCR:
		return uint64(u.scr)
	}
	return ^uint64(0)
}

// Write implements bus.Device.
func (u *UART) Write(off uint64, size int, v uint64) {
	if size != 1 {
		return
	}
	b := byte(v)
	u.mu.Lock()
	defer u.mu.Unlock()
	dlab := u.lcr&lcrDLAB != 0
	switch {
	case off == uartRBR && dlab:
		u.dll = b
	case off == uartIER && dlab:
		u.dlm = b
	case off == uartRBR:
		u.transmit(b)
	case off == uartIER:
		// Enabling the transmit interrupt while the holding register is empty
		// raises it: drivers start transmission so, and probe for it.
		if b&ierTHRE != 0 && u.ier&ierTHRE == 0 && u.txReady() {
			u.thre = true
		}
		u.ier = b & 0x0f
	case off == uartIIR: // FCR
		if (b^u.fcr)&fcrEnable != 0 || b&fcrClearRX != 0 {
			u.rxHead, u.rxLen, u.overrun = 0, 0, false
			u.signalRoom()
		}
		if b&fcrEnable == 0 {
			b = 0
		}
		u.fcr = b & 0xc9
	case off == uartLCR:
		u.lcr = b
	case off == uartMCR:
		u.mcr = b & 0x1f
		u.modemChanged()
		if u.mcr&mcrLoop == 0 {
			u.signalRoom()
		}
	case off == uartSCR:
		u.scr = b
	}
	u.update()
}

// capacity of the receiver: without the FIFO there is one holding register.
func (u *UART) capacity() int {
	if u.fcr&fcrEnable != 0 {
		return uartFIFO
	}
	return 1
}

func (u *UART) pop() byte {
	if u.rxLen == 0 {
		return 0
	}
	c := u.rx[u.rxHead].c
	u.rxHead, u.rxLen = (u.rxHead+1)%uartFIFO, u.rxLen-1
	if u.rxLen == 0 {
		// Refilling only an empty FIFO makes each refill an edge of the line,
		// so that a driver which gives up in mid-burst is interrupted again.
		u.signalRoom()
	}
	return c
}

func (u *UART) push(x rxByte) {
	u.rx[(u.rxHead+u.rxLen)%uartFIFO] = x
	u.rxLen++
}

func (u *UART) signalRoom() {
	if u.room != nil {
		close(u.room)
		u.room = nil
	}
}

// txReady tells whether the holding register takes another character.
func (u *UART) txReady() bool {
	return u.out == nil || u.mcr&mcrLoop != 0 || len(u.fill) < cap(u.fill)
}

func (u *UART) transmit(b byte) {
	u.thre = false
	switch {
	case u.mcr&mcrLoop != 0:
		if u.rxLen < u.capacity() {
			u.push(rxByte{c: b})
		} else {
			u.overrun = true
		}
	case u.out != nil && !u.halted && len(u.fill) < cap(u.fill):
		u.fill = append(u.fill, b)
		if len(u.fill) == 1 {
			u.wakePump()
		}
	}
	u.thre = u.txReady()
}

func (u *UART) lineStatus() byte {
	var v byte
	if u.rxLen > 0 {
		v |= lsrDR | u.rx[u.rxHead].status
	}
	if u.overrun {
		v |= lsrOE
	}
	if u.fcr&fcrEnable != 0 {
		for i := range u.rxLen {
			if u.rx[(u.rxHead+i)%uartFIFO].status != 0 {
				v |= lsrFIFOError
			}
		}
	}
	if u.txReady() {
		v |= lsrTHRE | lsrTEMT
	}
	return v
}

// modem returns the upper half of the modem status register.
func (u *UART) modem() byte {
	if u.mcr&mcrLoop == 0 {
		return msrCTS | msrDSR | msrDCD
	}
	var v byte
	for _, w := range [...][2]byte{{mcrRTS, msrCTS}, {mcrDTR, msrDSR}, {mcrOUT1, msrRI}, {mcrOUT2, msrDCD}} {
		if u.mcr&w[0] != 0 {
			v |= w[1]
		}
	}
	return v
}

func (u *UART) modemChanged() {
	now := u.modem()
	d := (now ^ u.msrLast) >> 4
	if u.msrLast&msrRI == 0 { // only the trailing edge of RI counts
		d &^= msrRI >> 4
	}
	u.msrDelta |= d
	u.msrLast = now
}

// pending returns the interrupt of highest priority that is enabled.
func (u *UART) pending() byte {
	switch {
	case u.ier&ierLSR != 0 && (u.overrun || u.rxLen > 0 && u.rx[u.rxHead].status != 0):
		return iirLSR
	case u.ier&ierRX != 0 && u.rxLen > 0:
		if u.fcr&fcrEnable != 0 && u.rxLen < [4]int{1, 4, 8, 14}[u.fcr>>6] {
			return iirTimeout // the line is idle: what is there is all there is
		}
		return iirRX
	case u.ier&ierTHRE != 0 && u.thre:
		return iirTHRE
	case u.ier&ierMSR != 0 && u.msrDelta != 0:
		return iirMSR
	}
	return iirNone
}

// update drives the line, which on a PC passes a gate that OUT2 opens. While
// paused nothing is raised; Resume does it.
func (u *UART) update() {
	level := u.mcr&mcrOUT2 != 0 && u.mcr&mcrLoop == 0 && u.pending() != iirNone
	if level != u.level && !(level && u.paused) {
		u.level = level
		u.irq(level)
	}
}

// Send gives the guest p as received characters. It waits until the receiver
// has room for all of them, and while the port is paused, and returns how many
// were taken with ctx's error or ErrHalted. Bytes of several callers may mix.
func (u *UART) Send(ctx context.Context, p []byte) (int, error) {
	return u.receive(ctx, len(p), func(i int) rxByte { return rxByte{c: p[i]} })
}

// Input is Send as an io.Writer, bounded by the port's life alone.
func (u *UART) Input() io.Writer { return uartInput{u} }

type uartInput struct{ u *UART }

func (w uartInput) Write(p []byte) (int, error) { return w.u.Send(context.Background(), p) }

// Break sends a break condition, which Linux's console takes as the SysRq key.
func (u *UART) Break(ctx context.Context) error {
	_, err := u.receive(ctx, 1, func(int) rxByte { return rxByte{status: lsrBI} })
	return err
}

func (u *UART) receive(ctx context.Context, n int, at func(int) rxByte) (int, error) {
	for i := 0; ; {
		u.mu.Lock()
		if u.halted {
			u.mu.Unlock()
			return i, ErrHalted
		}
		if !u.paused && u.mcr&mcrLoop == 0 && u.rxLen == 0 {
			for ; i < n && u.rxLen < u.capacity(); i++ {
				u.push(at(i))
			}
			u.update()
		}
		if i == n {
			u.mu.Unlock()
			return i, nil
		}
		if u.room == nil {
			u.room = make(chan struct{})
		}
		room := u.room
		u.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return i, ctx.Err()
		}
	}
}
