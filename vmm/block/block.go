// SPDX-License-Identifier: BSD-2-Clause

package block

import "errors"

// ErrWouldBlock is answered by TryReadV where the data is not at hand.
var ErrWouldBlock = errors.New("read would block")

// Geometry is what a backend is.
type Geometry struct {
	Size     int64 // bytes, a multiple of 512
	Logical  int   // smallest unit of input and output: 512..4096 bytes
	Physical int   // unit that is written without reading before; >= Logical
	ReadOnly bool
	// Discard: ranges can be given back. Zero: ranges can be zeroed without
	// writing them.
	Discard, Zero bool
}

// Backend holds the bytes of a disk. All methods may be called from several
// goroutines at once. Reads and writes are whole or fail. bufs may point to
// guest memory: it is neither kept nor looked into.
type Backend interface {
	Geometry() Geometry
	ReadV(bufs [][]byte, off int64) error
	// TryReadV is ReadV if that needs no waiting for a device, else it answers
	// ErrWouldBlock, having perhaps filled a part.
	TryReadV(bufs [][]byte, off int64) error
	WriteV(bufs [][]byte, off int64) error
	// Flush returns when all that was written before is on stable storage.
	Flush() error
	// Discard gives [off, off+n) back; what is read there later is undefined
	// (old bytes or zeroes).
	Discard(off, n int64) error
	// WriteZeroes makes [off, off+n) read as zeroes; with unmap it may give the
	// space back.
	WriteZeroes(off, n int64, unmap bool) error
	Close() error
}
