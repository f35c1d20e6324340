// SPDX-License-Identifier: BSD-2-Clause

package worker

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// historySize is what a newly attached reader gets of the past.
	historySize = 128 << 10
	// backlog is how far behind a reader may fall before it is cut off.
	backlog = 256 << 10
	// maxReaders at once.
	maxReaders = 16
)

// Console stands between the guest's serial line and those who look at it. It
// never makes the guest wait: who does not read is cut off.
type Console struct {
	input chan []byte // to the guest
	done  chan struct{}

	slow    time.Duration // after which a guest that takes no input is stalled
	stalled atomic.Bool

	mu      sync.Mutex
	history ring
	readers map[*reader]struct{}
	closed  bool
	log     *os.File
	logged  int64
	limit   int64

	rmu  sync.Mutex // of Read
	rest []byte
}

type reader struct {
	buf  []byte
	wake chan struct{} // of capacity 1
	cut  bool          // no more will come
}

func newConsole(log *os.File, limit int64) *Console {
	c := &Console{
		input:   make(chan []byte, 16),
		done:    make(chan struct{}),
		slow:    patience,
		readers: map[*reader]struct{}{},
		log:     log,
		limit:   max(limit, historySize),
	}
	if log != nil {
		if n, err := log.Seek(0, io.SeekEnd); err == nil {
			c.logged = n
		}
	}
	return c
}

// Write takes what the guest wrote. It does not block and never fails.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history.write(p)
	c.writeLog(p)
	for r := range c.readers {
		if len(r.buf)+len(p) > backlog {
			r.cut = true
			delete(c.readers, r)
		} else {
			r.buf = append(r.buf, p...)
		}
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	return len(p), nil
}

// writeLog keeps the file under its limit: when it is full it begins anew with
// the history. A full disk costs the log, not the guest.
func (c *Console) writeLog(p []byte) {
	if c.log == nil {
		return
	}
	if c.logged+int64(len(p)) > c.limit {
		p = c.history.bytes()
		if c.log.Truncate(0) != nil {
			return
		}
		c.logged = 0
	}
	n, _ := c.log.WriteAt(p, c.logged)
	c.logged += int64(n)
}

// Read gives the guest what somebody typed; io.EOF when the worker ends.
func (c *Console) Read(p []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if len(c.rest) == 0 {
		select {
		case c.rest = <-c.input:
		case <-c.done:
			return 0, io.EOF
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *Console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	close(c.done)
	for r := range c.readers {
		r.cut = true
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	clear(c.readers)
}

// attach adds a reader and gives the history up to the moment of it; nil if
// there are too many.
func (c *Console) attach() (*reader, []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.readers) >= maxReaders {
		return nil, nil
	}
	r := &reader{wake: make(chan struct{}, 1), cut: c.closed}
	if !c.closed {
		c.readers[r] = struct{}{}
	}
	return r, c.history.bytes()
}

func (c *Console) detach(r *reader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.readers, r)
	r.cut = true
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// next waits for output; nil when there will be no more.
func (c *Console) next(r *reader) []byte {
	for {
		c.mu.Lock()
		b, cut := r.buf, r.cut
		r.buf = nil
		c.mu.Unlock()
		if len(b) > 0 {
			return b
		}
		if cut {
			return nil
		}
		<-r.wake
	}
}

// send hands input to the guest, waiting while it takes none; false when the
// worker or stop ends first. What a guest does not take for long is lost, as on any
// serial line that nobody reads, and so is what follows until it takes some:
// whoever typed it must be heard when he hangs up.
func (c *Console) send(p []byte, stop <-chan struct{}) bool {
	p = append([]byte(nil), p...)
	select {
	case c.input <- p:
		c.stalled.Store(false)
		return true
	default:
	}
	if c.stalled.Load() {
		return true
	}
	long := time.NewTimer(c.slow)
	defer long.Stop()
	select {
	case c.input <- p:
	case <-long.C:
		c.stalled.Store(true)
	case <-c.done:
		return false
	case <-stop:
		return false
	}
	return true
}

// ring keeps the last historySize bytes; it grows as it fills.
type ring struct {
	buf  []byte
	next int // where the oldest byte is, once full
}

func (r *ring) write(p []byte) {
	if len(p) > historySize {
		p = p[len(p)-historySize:]
	}
	if room := historySize - len(r.buf); room > 0 {
		n := min(room, len(p))
		r.buf = append(r.buf, p[:n]...)
		p = p[n:]
	}
	for len(p) > 0 {
		n := copy(r.buf[r.next:], p)
		r.next = (r.next + n) % historySize
		p = p[n:]
	}
}

func (r *ring) bytes() []byte {
	return append(append(make([]byte, 0, len(r.buf)), r.buf[r.next:]...), r.buf[:r.next]...)
}
