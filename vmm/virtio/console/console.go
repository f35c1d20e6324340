// SPDX-License-Identifier: BSD-2-Clause

package console

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/skepvm/skep/vmm/virtio"
)

const (
	featureSize = 1 << 0

	rx, tx = 0, 1

	inputSize  = 64 << 10
	outputSize = 256 << 10
	// patience is how long the guest waits for a slow reader before bytes are
	// thrown away.
	patience = 200 * time.Millisecond
)

// ErrClosed is answered by Write after the device was closed.
var ErrClosed = errors.New("virtio console: closed")

// Device is a virtio console. It is an io.Writer for what is typed.
type Device struct {
	out io.Writer

	mu         sync.Mutex // guards all below
	cond       *sync.Cond
	input      fifo
	output     fifo
	dropped    uint64
	cols, rows uint16
	closed     bool
	stuck      bool // the reader let patience run out
	transport  virtio.Transport
	writer     chan struct{} // closed when the goroutine that writes out is gone
}

// New makes a console whose output goes to out; nil throws it away. out may
// block; nothing but the console's own buffer waits for it. It is not closed.
func New(out io.Writer) *Device {
	if out == nil {
		out = io.Discard
	}
	d := &Device{out: out, writer: make(chan struct{})}
	d.input.buf, d.output.buf = make([]byte, inputSize), make([]byte, outputSize)
	d.cond = sync.NewCond(&d.mu)
	go d.drain()
	return d
}

// Bind implements virtio.Binder.
func (d *Device) Bind(t virtio.Transport) { d.transport = t }

// Write types p. It blocks while the buffer of what the guest has not read is
// full, until Close.
func (d *Device) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	done := 0
	for done < len(p) {
		if d.closed {
			return done, ErrClosed
		}
		n := d.input.put(p[done:])
		if done += n; n > 0 {
			d.cond.Broadcast()
		} else {
			d.cond.Wait()
		}
	}
	return done, nil
}

// TryWrite types as much of p as there is room for, without waiting, and returns
// how much that was.
func (d *Device) TryWrite(p []byte) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.input.put(p)
	if n > 0 {
		d.cond.Broadcast()
	}
	return n
}

// Resize tells the guest the terminal's size.
func (d *Device) Resize(cols, rows uint16) {
	d.mu.Lock()
	d.cols, d.rows = cols, rows
	t := d.transport
	d.mu.Unlock()
	if t != nil {
		t.ConfigChanged()
	}
}

// Dropped is the number of bytes that were thrown away because nobody read.
func (d *Device) Dropped() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dropped
}

// The methods of virtio.Device.

// Info describes the device.
func (d *Device) Info() virtio.Info {
	return virtio.Info{Type: virtio.TypeConsole, Class: 0x078000, Name: "console", Queues: []uint16{64, 64}}
}

// Features offers the size.
func (d *Device) Features() uint64 { return featureSize }

// Negotiated takes any of them.
func (d *Device) Negotiated(uint64) error { return nil }

// ReadConfig gives struct virtio_console_config.
func (d *Device) ReadConfig(off int, p []byte) {
	var c [12]byte
	d.mu.Lock()
	binary.LittleEndian.PutUint16(c[0:], d.cols)
	binary.LittleEndian.PutUint16(c[2:], d.rows)
	d.mu.Unlock()
	binary.LittleEndian.PutUint32(c[4:], 1)
	if off < len(c) {
		copy(p, c[off:])
	}
}

// WriteConfig ignores emergency writes, which are not offered.
func (d *Device) WriteConfig(int, []byte) {}

// Reset keeps what was typed: it is for whoever reads next.
func (d *Device) Reset() {}

// Unblock wakes Serve.
func (d *Device) Unblock(int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cond.Broadcast()
}

// Halt implements virtio.Halter: it ends the output once what is buffered is
// written or the reader is stuck.
func (d *Device) Halt() {
	d.mu.Lock()
	again := d.closed
	d.closed = true
	d.cond.Broadcast()
	d.mu.Unlock()
	if again {
		return // it has been waited for
	}
	select {
	case <-d.writer:
	case <-time.After(patience):
	}
}

// Close ends a console that was never in a machine, too.
func (d *Device) Close() error {
	d.Halt()
	return nil
}

// Serve moves bytes.
func (d *Device) Serve(i int, q *virtio.Queue) {
	if i == rx {
		d.receive(q)
	} else {
		d.transmit(q)
	}
}

func (d *Device) receive(q *virtio.Queue) {
	var c virtio.Chain
	for q.Wait() {
		d.mu.Lock()
		for d.input.n == 0 && !q.Stopping() {
			d.cond.Wait()
		}
		for n := q.Size(); n > 0 && d.input.n > 0 && q.Pop(&c); n-- {
			done := 0
			for _, b := range c.In {
				for k := 1; k > 0 && len(b) > 0; b = b[k:] {
					k = copy(b, d.input.front())
					d.input.drop(k)
					done += k
				}
			}
			q.Push(&c, uint32(done))
		}
		d.cond.Broadcast()
		d.mu.Unlock()
		q.Interrupt()
	}
}

func (d *Device) transmit(q *virtio.Queue) {
	var c virtio.Chain
	for q.Wait() {
		for n := q.Size(); n > 0 && q.Pop(&c); n-- {
			for _, b := range c.Out {
				if !d.emit(b, q) {
					break
				}
			}
			q.Push(&c, 0)
		}
		q.Interrupt()
	}
}

// emit buffers b, of which a driver may have made gigabytes: it comes in pieces
// and ends early when the queue shall stop.
func (d *Device) emit(b []byte, q *virtio.Queue) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(b) > 0 {
		if q.Stopping() {
			d.dropped += uint64(len(b))
			return false
		}
		if d.output.room() == 0 && !d.stuck {
			d.waitRoom(q)
			continue
		}
		if room := d.output.room(); room == 0 {
			// Nobody reads: make room for what is new.
			n := min(len(b), outputSize)
			d.dropped += uint64(len(b))
			b = b[len(b)-n:]
			d.output.drop(n)
		}
		b = b[d.output.put(b):]
		d.cond.Broadcast()
	}
	return true
}

// waitRoom waits for the reader, at most for patience. Called with mu held.
func (d *Device) waitRoom(q *virtio.Queue) {
	expired := false
	t := time.AfterFunc(patience, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		expired = true
		d.cond.Broadcast()
	})
	defer t.Stop()
	for d.output.room() == 0 && !expired && !d.closed && !q.Stopping() {
		d.cond.Wait()
	}
	d.stuck = d.output.room() == 0 && expired
}

// drain writes out what the guest wrote.
func (d *Device) drain() {
	defer close(d.writer)
	buf := make([]byte, 0, 4096)
	for {
		d.mu.Lock()
		for d.output.n == 0 && !d.closed {
			d.cond.Wait()
		}
		if d.output.n == 0 {
			d.mu.Unlock()
			return
		}
		buf = buf[:copy(buf[:cap(buf)], d.output.front())]
		d.output.drop(len(buf))
		d.stuck = false
		d.cond.Broadcast()
		d.mu.Unlock()
		if _, err := d.out.Write(buf); err != nil {
			d.mu.Lock()
			d.dropped += uint64(len(buf))
			d.mu.Unlock()
		}
	}
}
