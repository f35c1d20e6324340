// SPDX-License-Identifier: BSD-2-Clause

package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Hail is what the agent says first on the control port. What comes before is
// noise and what is sent earlier may be lost.
const Hail = "\x00skep-testbed agent\n"

// AwaitHail reads until the hail.
func AwaitHail(r io.Reader) error {
	matched := 0
	b := make([]byte, 1) // byte by byte: what follows is not ours
	for matched < len(Hail) {
		if _, err := io.ReadFull(r, b); err != nil {
			return fmt.Errorf("wait for the agent: %w", err)
		}
		switch {
		case b[0] == Hail[matched]:
			matched++
		case b[0] == Hail[0]:
			matched = 1
		default:
			matched = 0
		}
	}
	return nil
}

// PacedWindow is how many bytes may be under way to an agent whose port drops
// what it cannot hold. FreeBSD's virtio console is a terminal: its input queue
// holds a fifth of the line speed in bytes, 23 KB at 115200 baud.
const PacedWindow = 16 << 10

const (
	pacedData = 'd'
	pacedAck  = 'a'
)

// A Paced stream sends no more than a window ahead of what the other end has
// read. Only one goroutine may read.
type Paced struct {
	rw     io.ReadWriteCloser
	in     *bufio.Reader
	window int  // 0: unlimited
	acks   bool // tell the other end what was read
	rest   int  // of the data frame being read

	write sync.Mutex // guards writes to rw

	mu     sync.Mutex // guards credit and closed
	room   *sync.Cond
	credit int
	closed bool
}

// NewPaced wraps the end that sends with a window (window > 0) or the one that
// acknowledges (window 0).
func NewPaced(rw io.ReadWriteCloser, window int) *Paced {
	p := &Paced{rw: rw, in: bufio.NewReaderSize(rw, 64<<10), window: window, acks: window == 0, credit: window}
	p.room = sync.NewCond(&p.mu)
	return p
}

func (p *Paced) frame(kind byte, body []byte) error {
	buf := make([]byte, 3+len(body))
	buf[0] = kind
	binary.BigEndian.PutUint16(buf[1:], uint16(len(body)))
	copy(buf[3:], body)
	p.write.Lock()
	defer p.write.Unlock()
	_, err := p.rw.Write(buf)
	return err
}

// Write implements io.Writer.
func (p *Paced) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n := min(len(b)-done, 4096)
		if p.window > 0 {
			p.mu.Lock()
			for p.credit == 0 && !p.closed {
				p.room.Wait()
			}
			if p.closed {
				p.mu.Unlock()
				return done, io.ErrClosedPipe
			}
			n = min(n, p.credit)
			p.credit -= n
			p.mu.Unlock()
		}
		if err := p.frame(pacedData, b[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// Read implements io.Reader.
func (p *Paced) Read(b []byte) (int, error) {
	for p.rest == 0 {
		var h [3]byte
		if _, err := io.ReadFull(p.in, h[:]); err != nil {
			p.shut()
			return 0, err
		}
		n := int(binary.BigEndian.Uint16(h[1:]))
		switch h[0] {
		case pacedData:
			p.rest = n
		case pacedAck:
			var body [4]byte
			if n != len(body) {
				return 0, errors.New("wire: bad acknowledgement")
			}
			if _, err := io.ReadFull(p.in, body[:]); err != nil {
				p.shut()
				return 0, err
			}
			p.mu.Lock()
			p.credit = min(p.window, p.credit+int(binary.BigEndian.Uint32(body[:])))
			p.room.Broadcast()
			p.mu.Unlock()
		default:
			return 0, fmt.Errorf("wire: paced frame %q: bytes were lost", h[0])
		}
	}
	n, err := p.in.Read(b[:min(len(b), p.rest)])
	p.rest -= n
	if err == nil && p.acks && n > 0 {
		err = p.frame(pacedAck, binary.BigEndian.AppendUint32(nil, uint32(n)))
	}
	return n, err
}

func (p *Paced) shut() {
	p.mu.Lock()
	p.closed = true
	p.room.Broadcast()
	p.mu.Unlock()
}

// Close closes the stream below.
func (p *Paced) Close() error {
	p.shut()
	return p.rw.Close()
}
