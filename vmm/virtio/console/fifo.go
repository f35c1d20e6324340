// SPDX-License-Identifier: BSD-2-Clause

package console

// fifo is a ring of bytes whose size never changes.
type fifo struct {
	buf     []byte
	head, n int
}

func (f *fifo) room() int { return len(f.buf) - f.n }

// put appends what fits of p and returns how much.
func (f *fifo) put(p []byte) int {
	done := 0
	for done < len(p) && f.room() > 0 {
		at := (f.head + f.n) % len(f.buf)
		end := min(len(f.buf), at+f.room())
		k := copy(f.buf[at:end], p[done:])
		f.n, done = f.n+k, done+k
	}
	return done
}

// front returns the oldest bytes that lie in one piece.
func (f *fifo) front() []byte { return f.buf[f.head:min(f.head+f.n, len(f.buf))] }

// drop takes the n oldest bytes away; n is at most what is there.
func (f *fifo) drop(n int) { f.head, f.n = (f.head+n)%len(f.buf), f.n-n }
