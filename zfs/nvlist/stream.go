// SPDX-License-Identifier: BSD-2-Clause

package nvlist

import (
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
)

// WalkReader is Walk of what r gives, the counterpart of Encoder: of a list of
// any length it holds one pair of the top at a time. A pair of more than maxPair
// bytes, with all that is nested in it, is ErrTooLarge; a maxPair of 0 allows
// the most, 2 GiB. Memory is taken for what was read and not for what a pair
// says of its size. If r ends within the list it is ErrTruncated; another error
// of r is wrapped.
//
// It reads the bytes of the list and none behind them. What follows is no error
// but the caller's, who can read on from r; if the loop is left early, from the
// end of the pair that it had last. It reads in small pieces: r had better be a
// bufio.Reader where a Read is a system call. The sequence is good for one loop.
func WalkReader(r io.Reader, maxPair int) iter.Seq2[Pair, error] {
	return func(yield func(Pair, error) bool) {
		if maxPair <= 0 || maxPair > maxSize {
			maxPair = maxSize
		}
		d := &decoder{stream: &stream{r: r, maxPair: maxPair}, end: headerLen + 8}
		err := d.header(&List{})
		if err == nil {
			err = d.walk(yield)
		}
		if err != nil {
			yield(Pair{}, d.wrap(err))
		}
	}
}

// stream is an input that comes as it is decoded.
type stream struct {
	r       io.Reader
	buf     []byte
	maxPair int
	end     int // of the pair at the top, at the latest
}

// next lets the decoder read one pair more.
func (s *stream) next(d *decoder) {
	s.end = d.off + min(s.maxPair, math.MaxInt-d.off)
	d.end = s.end
}

// firstRead is how many bytes a mere promise of more can allocate.
const firstRead = 4 << 10

// read gives the next n bytes. The buffer grows by what was read already.
func (s *stream) read(n int) (string, error) {
	for got := 0; got < n; {
		want := min(n, max(firstRead, cap(s.buf), 2*got))
		s.buf = slices.Grow(s.buf[:got], want-got)[:want]
		m, err := io.ReadFull(s.r, s.buf[got:])
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return "", ErrTruncated
		default:
			return "", fmt.Errorf("read: %w", err)
		}
		got += m
	}
	return string(s.buf[:n]), nil
}

// Encoder writes a list pair by pair, for lists that need not stand in memory as a whole.
type Encoder struct {
	w     io.Writer
	enc   Encoding
	buf   []byte
	err   error
	begun bool
}

// NewEncoder makes an encoder that writes to w.
func NewEncoder(w io.Writer, enc Encoding) *Encoder { return &Encoder{w: w, enc: enc} }

// Add writes one pair. That names are unique is the caller's part.
func (e *Encoder) Add(name string, v Value) error {
	if e.begin() {
		e.buf, e.err = appendPair(e.buf, e.enc, Pair{name, v}, 1)
	}
	e.flush()
	return e.err
}

// Close writes the end of the list. It does not close the writer.
func (e *Encoder) Close() error {
	if e.begin() {
		e.buf = appendEnd(e.buf, e.enc)
	}
	e.flush()
	return e.err
}

func (e *Encoder) begin() bool {
	if e.err == nil && !e.begun {
		e.begun = true
		e.buf, e.err = appendHeader(e.buf, e.enc, nil)
	}
	return e.err == nil
}

func (e *Encoder) flush() {
	if e.err == nil {
		_, e.err = e.w.Write(e.buf)
		e.buf = e.buf[:0]
	}
}
