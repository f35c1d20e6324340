// SPDX-License-Identifier: BSD-2-Clause

package virtio

import (
	"errors"
	"fmt"
)

// ErrProtocol is wrapped by everything that a driver does against the rules of
// the ring.
var ErrProtocol = errors.New("virtio: driver broke the ring protocol")

// Descriptor flags (VIRTIO 1.2, section 2.7.5).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
	descSize     = 16
)

// Chain is one request: guest memory as slices fit for readv and writev. The
// guest may change the bytes at any moment: copy what is checked. A Chain is
// reused by Queue.Pop and keeps its storage.
type Chain struct {
	// Out is what the device reads, In what it writes. No slice is empty.
	Out, In [][]byte
	// OutLen and InLen are the sums of the lengths.
	OutLen, InLen uint64

	head uint16
	bufs [][]byte // storage of Out and In
}

// readDesc loads the descriptor at gpa, once.
func (q *Queue) readDesc(gpa uint64) (addr uint64, length uint32, flags, next uint16, err error) {
	var meta uint64
	if gpa%8 == 0 {
		if addr, err = q.mem.LoadU64(gpa); err == nil {
			meta, err = q.mem.LoadU64(gpa + 8)
		}
	} else { // only an indirect table can lie so
		var b [descSize]byte
		err = q.mem.ReadAt(b[:], gpa)
		addr, meta = le.Uint64(b[:]), le.Uint64(b[8:])
	}
	return addr, uint32(meta), uint16(meta >> 32), uint16(meta >> 48), err
}

// walk fills c from the chain that begins at head.
func (q *Queue) walk(c *Chain, head uint16) error {
	c.head, c.bufs = head, c.bufs[:0]
	c.OutLen, c.InLen = 0, 0
	table, entries, indirect := q.desc, uint32(q.size), false
	i, out := uint32(head), 0
	for n := 0; ; n++ {
		if i >= entries {
			return fmt.Errorf("%w: descriptor %d of %d", ErrProtocol, i, entries)
		}
		if n >= q.maxSegs {
			return fmt.Errorf("%w: chain of more than %d descriptors", ErrProtocol, q.maxSegs)
		}
		addr, length, flags, next, err := q.readDesc(table + uint64(i)*descSize)
		if err != nil {
			return fmt.Errorf("%w: descriptor %d: %w", ErrProtocol, i, err)
		}
		if flags&descIndirect != 0 {
			if !q.indirect || indirect || flags&descNext != 0 || length == 0 || length%descSize != 0 {
				return fmt.Errorf("%w: indirect descriptor of %d bytes, flags %#x", ErrProtocol, length, flags)
			}
			table, entries, indirect, i = addr, length/descSize, true, 0
			// The limit on n ends this loop however large the table claims to be.
			continue
		}
		b, err := q.mem.Slice(addr, uint64(length))
		if err != nil {
			return fmt.Errorf("%w: buffer of descriptor %d: %w", ErrProtocol, i, err)
		}
		if flags&descWrite != 0 {
			c.InLen += uint64(length)
		} else {
			if out != len(c.bufs) {
				return fmt.Errorf("%w: readable descriptor %d behind a writable one", ErrProtocol, i)
			}
			c.OutLen += uint64(length)
		}
		if length != 0 {
			c.bufs = append(c.bufs, b)
		}
		if flags&descWrite == 0 {
			out = len(c.bufs)
		}
		if flags&descNext == 0 {
			break
		}
		i = uint32(next)
	}
	c.Out, c.In = c.bufs[:out:out], c.bufs[out:]
	return nil
}

// CopyOut copies from the front of bufs into p and returns how much.
func CopyOut(p []byte, bufs [][]byte) int {
	n := 0
	for _, b := range bufs {
		if n == len(p) {
			break
		}
		n += copy(p[n:], b)
	}
	return n
}

// CopyIn copies p to the front of bufs and returns how much found room.
func CopyIn(bufs [][]byte, p []byte) int {
	n := 0
	for _, b := range bufs {
		if n == len(p) {
			break
		}
		n += copy(b, p[n:])
	}
	return n
}

// Skip returns bufs without its first n bytes. It may change the elements of
// bufs, not what they point to.
func Skip(bufs [][]byte, n uint64) [][]byte {
	for len(bufs) > 0 && n >= uint64(len(bufs[0])) {
		n -= uint64(len(bufs[0]))
		bufs = bufs[1:]
	}
	if n > 0 && len(bufs) > 0 {
		bufs[0] = bufs[0][n:]
	}
	return bufs
}
