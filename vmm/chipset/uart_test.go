// SPDX-License-Identifier: BSD-2-Clause

package chipset_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/chipset"
)

const com = 0x3f8

// The registers by their names.
const (
	rRBR, rIER, rIIR, rLCR, rMCR, rLSR, rMSR, rSCR = com, com + 1, com + 2, com + 3, com + 4, com + 5, com + 6, com + 7
)

type uartRig struct {
	guest
	u *chipset.UART
	lines
}

// newUART puts a port on a bus and starts it.
func newUART(t testing.TB, out io.Writer) *uartRig {
	t.Helper()
	r := &uartRig{guest: guest{t: t}}
	r.u = chipset.NewUART(chipset.UARTConfig{IRQ: func(v bool) { r.set(4, v) }, Output: out})
	if err := r.ports.Map(com, 8, r.u); err != nil {
		t.Fatal(err)
	}
	r.u.Start()
	t.Cleanup(r.u.Halt)
	return r
}

// open does what a driver does when its terminal is opened.
func (r *uartRig) open() {
	r.out(rIIR, 0x87) // FIFO on and cleared, trigger at 8
	r.out(rLCR, 3)
	r.out(rMCR, 0x0b)
	r.out(rIER, 0x05)
}

func (r *uartRig) expect(what string, port uint64, want byte) {
	r.t.Helper()
	if got := r.in(port); got != want {
		r.t.Errorf("%s: port %#x reads %#x, wanted %#x", what, port, got, want)
	}
}

// TestUARTLinuxProbe follows Linux' 8250 autoconfig, size_fifo and startup
// (drivers/tty/serial/8250/8250_port.c).
func TestUARTLinuxProbe(t *testing.T) {
	r := newUART(t, nil)
	r.out(rIER, 0)
	r.expect("IER cleared", rIER, 0)
	r.out(rIER, 0x0f)
	r.expect("IER has four bits", rIER, 0x0f)
	r.out(rIER, 0xff)
	r.expect("IER has no more", rIER, 0x0f)
	r.out(rIER, 0)
	for _, v := range []byte{0x5a, 0xa5} {
		r.out(rSCR, v)
		r.expect("scratch", rSCR, v)
	}
	r.out(rMCR, 0x1a) // loop, OUT2, RTS
	if got := r.in(rMSR) & 0xf0; got != 0x90 {
		t.Errorf("loopback: modem status %#x", got)
	}
	r.out(rMCR, 0)
	r.out(rLCR, 0xbf)
	r.out(rIIR, 0)
	r.out(rLCR, 0)
	r.out(rIIR, 1)
	if got := r.in(rIIR) >> 6; got != 3 {
		t.Errorf("not a 16550A: %d", got)
	}
	// No 16650, 16750 or XR: EFR is not there, and no 64-byte FIFO.
	r.out(rLCR, 0x80)
	if r.in(rIIR) == 0 {
		t.Error("looks like a 16650")
	}
	r.out(rIIR, 0x21)
	if r.in(rIIR)>>5 == 7 {
		t.Error("looks like a 16750")
	}
	r.out(rLCR, 0)
	// size_fifo
	r.out(rIIR, 7)
	r.out(rMCR, 0x10)
	r.out(rLCR, 0x80)
	dll, dlm := r.in(rRBR), r.in(rIER)
	r.out(rRBR, 1)
	r.out(rIER, 0)
	r.expect("divisor", rRBR, 1)
	r.out(rLCR, 3)
	for i := range 256 {
		r.out(rRBR, byte(i))
	}
	n := 0
	for ; n < 256 && r.in(rLSR)&1 != 0; n++ {
		r.expect("looped back", rRBR, byte(n))
	}
	if n != 16 {
		t.Errorf("a FIFO of %d bytes", n)
	}
	r.out(rLCR, 0x80)
	r.out(rRBR, dll)
	r.out(rIER, dlm)
	r.out(rLCR, 3)
	// startup: the test for a UART that forgets THRE, and for one whose
	// transmitter interrupt does not come when it is enabled.
	r.out(rMCR, 0x08)
	r.in(rLSR)
	r.in(rRBR)
	r.in(rIIR)
	r.in(rMSR)
	r.out(rIER, 2)
	first := r.in(rIIR) & 0x0f
	r.out(rIER, 0)
	r.out(rIER, 2)
	second := r.in(rIIR) & 0x0f
	r.out(rIER, 0)
	if first != 2 || second != 2 {
		t.Errorf("THRE interrupts: IIR %#x, then %#x", first, second)
	}
	if r.in(rLSR)&0x60 != 0x60 {
		t.Error("the transmitter is not empty")
	}
	if r.high(4) || r.rises(4) != 2 {
		t.Errorf("line high %v after %d interrupts", r.high(4), r.rises(4))
	}
}

// TestUARTFreeBSDProbe follows FreeBSD's ns8250 probe: registers whose unused
// bits read zero, then the FIFO's size by counting until an overrun
// (sys/dev/uart/uart_dev_ns8250.c).
func TestUARTFreeBSDProbe(t *testing.T) {
	r := newUART(t, nil)
	if r.in(rIIR)&0x30 != 0 || r.in(rMCR)&0xa0 != 0 || r.in(rIER)&0xf0 != 0 {
		t.Fatal("no 8250")
	}
	r.out(rMCR, 0x18)
	r.out(rIIR, 1)
	if r.in(rIIR)&0xc0 != 0xc0 {
		t.Fatal("no FIFO")
	}
	count, lsr := 0, byte(0)
	for ; lsr&2 == 0 && count <= 130; count++ {
		r.out(rRBR, 0)
		lsr |= r.in(rLSR)
	}
	if count-1 != 16 {
		t.Errorf("a FIFO of %d bytes", count-1)
	}
	if r.in(rLSR)&2 != 0 {
		t.Error("an overrun is reported twice")
	}
}

func TestUARTReceiveInterrupts(t *testing.T) {
	r := newUART(t, nil)
	r.open()
	ctx := context.Background()
	send := func(n int) {
		t.Helper()
		if got, err := r.u.Send(ctx, make([]byte, n)); got != n || err != nil {
			t.Fatal(got, err)
		}
	}
	send(3)
	r.expect("below the trigger: timeout", rIIR, 0xcc)
	if !r.high(4) {
		t.Fatal("no interrupt")
	}
	for range 3 {
		r.in(rRBR)
	}
	r.expect("all read", rIIR, 0xc1)
	if r.high(4) {
		t.Error("the line stays high")
	}
	send(16)
	r.expect("above the trigger", rIIR, 0xc4)
	for range 9 {
		r.in(rRBR)
	}
	r.expect("below again", rIIR, 0xcc)
	r.out(rMCR, 0x03)
	if r.high(4) {
		t.Error("OUT2 does not close the gate")
	}
	r.out(rMCR, 0x0b)
	if !r.high(4) {
		t.Error("OUT2 does not open the gate")
	}
	r.out(rIIR, 0x83)
	r.expect("FIFO cleared", rIIR, 0xc1)
	if err := r.u.Break(ctx); err != nil {
		t.Fatal(err)
	}
	r.expect("break is a line status", rIIR, 0xc6)
	r.expect("break", rLSR, 0xf1)
	r.expect("its status is read once", rIIR, 0xcc)
	r.expect("its character", rRBR, 0)
	r.expect("gone", rLSR, 0x60)
}

// TestUARTEdges: a driver behind an edge-triggered line that reads a burst and
// leaves is called again for the next one.
func TestUARTEdges(t *testing.T) {
	r := newUART(t, nil)
	r.open()
	const total = 1000
	done := make(chan error, 1)
	go func() {
		_, err := r.u.Send(context.Background(), make([]byte, total))
		done <- err
	}()
	served := 0
	for got := 0; got < total; {
		for r.rises(4) == served {
			time.Sleep(time.Microsecond)
		}
		served++
		for n := r.in(rIIR); n&1 == 0; n = r.in(rIIR) {
			r.in(rRBR)
			got++
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestUARTTransmitInterrupts: a driver that fills 16 bytes at each THRE
// interrupt gets everything out, in order.
func TestUARTTransmitInterrupts(t *testing.T) {
	var out bytes.Buffer
	r := newUART(t, &out)
	r.open()
	want := make([]byte, 200<<10) // several times the buffer
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	left, served := want, 0
	r.out(rIER, 7)
	for len(left) > 0 {
		for r.rises(4) == served {
			time.Sleep(time.Microsecond)
		}
		served = r.rises(4)
		for iir := r.in(rIIR); iir&1 == 0; iir = r.in(rIIR) {
			if iir&0x0f != 2 || len(left) == 0 {
				t.Fatalf("interrupt %#x", iir)
			}
			for n := 0; n < 16 && len(left) > 0; n++ {
				r.out(rRBR, left[0])
				left = left[1:]
				if r.in(rLSR)&0x20 == 0 { // as Linux does with UART_CAP_HFIFO
					break
				}
			}
			if len(left) == 0 {
				r.out(rIER, 5)
			}
		}
	}
	r.u.Halt()
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("%d bytes came out, %d went in", out.Len(), len(want))
	}
}

// gate is an Output that blocks until it is opened.
type gate struct {
	open chan struct{}
	mu   sync.Mutex
	got  bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.got.Write(p)
}

// TestUARTOutputBlocked: a reader that does not read makes the transmitter busy;
// the guest's accesses return all the same, and nothing that it was allowed to
// send is lost.
func TestUARTOutputBlocked(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	r := newUART(t, g)
	r.open()
	sent := 0
	for ; sent < 1<<20 && r.in(rLSR)&0x20 != 0; sent++ {
		r.out(rRBR, byte(sent))
	}
	if sent < 32<<10 || sent > 64<<10 {
		t.Fatalf("busy after %d bytes", sent)
	}
	for range 10 {
		r.out(rRBR, 0xee) // against the rules: lost
	}
	r.out(rIER, 2)
	if r.high(4) {
		t.Fatal("THRE interrupt of a busy transmitter")
	}
	close(g.open)
	for r.in(rLSR)&0x20 == 0 {
		time.Sleep(time.Microsecond)
	}
	for !r.high(4) {
		time.Sleep(time.Microsecond)
	}
	r.u.Halt()
	if b := g.got.Bytes(); len(b) != sent || bytes.Contains(b, []byte{0xee, 0xee}) {
		t.Errorf("%d of %d bytes came out", len(b), sent)
	}
}

// TestUARTHaltStuck: Halt returns although Output never does.
func TestUARTHaltStuck(t *testing.T) {
	clock := newClock(time.Unix(0, 0))
	g := &gate{open: make(chan struct{})}
	defer close(g.open)
	u := chipset.NewUART(chipset.UARTConfig{Output: g, Clock: clock})
	u.Start()
	u.Write(0, 1, 'x')
	done := make(chan struct{})
	go func() { u.Halt(); close(done) }()
	for clock.pending() == 0 {
		time.Sleep(time.Millisecond)
	}
	select {
	case <-done:
		t.Fatal("did not wait")
	default:
	}
	clock.advance(time.Minute)
	<-done
}

func TestUARTSendWaits(t *testing.T) {
	r := newUART(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := r.u.Send(ctx, []byte("abc")) // no FIFO: one byte fits
		done <- result{n, err}
	}()
	for r.in(rLSR)&1 == 0 {
		time.Sleep(time.Microsecond)
	}
	cancel()
	if got := <-done; got.n != 1 || !errors.Is(got.err, context.Canceled) {
		t.Errorf("cancelled: %+v", got)
	}
	r.expect("the byte that was taken", rRBR, 'a')

	r.u.Pause()
	go func() {
		n, err := r.u.Send(context.Background(), []byte("d"))
		done <- result{n, err}
	}()
	time.Sleep(10 * time.Millisecond)
	r.expect("nothing comes while paused", rLSR, 0x60)
	r.u.Resume()
	if got := <-done; got.n != 1 || got.err != nil {
		t.Errorf("after resume: %+v", got)
	}
	r.expect("now it is there", rRBR, 'd')

	// In loopback the line is cut off.
	r.out(rMCR, 0x10)
	go func() {
		n, err := r.u.Send(context.Background(), []byte("ef"))
		done <- result{n, err}
	}()
	time.Sleep(10 * time.Millisecond)
	r.expect("nothing comes in loopback", rLSR, 0x60)
	r.out(rMCR, 0)
	for r.in(rLSR)&1 == 0 {
		time.Sleep(time.Microsecond)
	}
	r.u.Halt()
	if got := <-done; got.n != 1 || !errors.Is(got.err, chipset.ErrHalted) {
		t.Errorf("halted: %+v", got)
	}
}

func TestUARTReset(t *testing.T) {
	r := newUART(t, io.Discard)
	r.open()
	r.out(rIER, 7)
	r.out(rSCR, 0x55)
	if _, err := r.u.Send(context.Background(), []byte("abc")); err != nil {
		t.Fatal(err)
	}
	if !r.high(4) {
		t.Fatal("no interrupt")
	}
	r.u.Pause()
	r.u.Reset()
	if r.high(4) {
		t.Error("the line stays high")
	}
	r.u.Resume()
	for port, want := range map[uint64]byte{rIER: 0, rIIR: 1, rLCR: 0, rMCR: 0, rLSR: 0x60, rSCR: 0} {
		r.expect("after reset", port, want)
	}
}

// TestUARTPausedRaisesNothing: output that drains while the guest rests makes
// its interrupt when it runs again.
func TestUARTPausedRaisesNothing(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	r := newUART(t, g)
	r.open()
	for r.in(rLSR)&0x20 != 0 {
		r.out(rRBR, 'x')
	}
	r.out(rIER, 2)
	r.u.Pause()
	close(g.open)
	for r.in(rLSR)&0x20 == 0 {
		time.Sleep(time.Microsecond)
	}
	if r.high(4) {
		t.Fatal("an interrupt while paused")
	}
	r.u.Resume()
	if !r.high(4) {
		t.Error("no interrupt after resume")
	}
}

// FuzzUART plays accesses of any offset, width and value, with characters
// arriving in between: nothing may hang or break what holds at all times.
func FuzzUART(f *testing.F) {
	f.Add([]byte{0x82, 7, 0x84, 0x0b, 0x81, 0x0f, 0x40, 'x', 0, 0, 5, 0})
	f.Add([]byte{0x84, 0x1f, 0x81, 0x0f, 0x80, 1, 0x80, 2, 0, 0, 2, 0, 6, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		var ln lines
		var out bytes.Buffer
		u := chipset.NewUART(chipset.UARTConfig{IRQ: func(v bool) {
			if ln.high(4) == v {
				t.Error("the line is driven to what it is")
			}
			ln.set(4, v)
		}, Output: &out})
		u.Start()
		sent := 0
		for ; len(ops) >= 2; ops = ops[2:] {
			off, size := uint64(ops[0]&7), 1<<(ops[0]>>3&3)
			switch {
			case ops[0]&0x40 != 0:
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				_, _ = u.Send(ctx, ops[1:2])
			case ops[0]&0x80 != 0:
				u.Write(off, size, uint64(ops[1])*0x0101010101010101)
				sent++
			default:
				if v := u.Read(off, size); size == 1 && v > 0xff {
					t.Fatalf("offset %d reads %#x", off, v)
				} else if size != 1 && v != ^uint64(0) {
					t.Fatalf("offset %d, %d bytes, reads %#x", off, size, v)
				}
			}
		}
		// The line says what the registers say.
		u.Write(3, 1, 0)
		mcr := u.Read(4, 1)
		if iir := u.Read(2, 1); ln.high(4) && (iir&1 != 0 || mcr&0x18 != 8) {
			t.Fatalf("the line is high: IIR %#x, MCR %#x", iir, mcr)
		}
		u.Reset()
		if ln.high(4) {
			t.Fatal("the line is high after a reset")
		}
		u.Halt()
		if out.Len() > sent {
			t.Fatalf("%d bytes came out of %d writes", out.Len(), sent)
		}
	})
}
