// SPDX-License-Identifier: BSD-2-Clause

package testguest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
)

const (
	// Sector is the unit of a Plan's sizes and offsets.
	Sector = 512

	planLargest = 1 << 20 // bytes of one request
	planBlock   = 2 << 20 // that one writer has to itself, between those of others

	// What a sector holds, if not the pattern of a number.
	stampUnknown, stampZero = 0, 1
)

// PlanDisk is what a Plan is played on.
type PlanDisk interface {
	io.ReaderAt
	io.WriterAt
	// Buffer returns memory that reads and writes take.
	Buffer(n int) ([]byte, error)
	Flush() error
	// Discard leaves a range undefined, Zero makes it zeroes.
	Discard(off, n int64) error
	Zero(off, n int64) error
}

// A Plan is a sequence of requests for each of several writers that work on a
// part of a disk side by side: writes, reads, flushes, discards and zeroes of
// random places and sizes, which are the same for the same values. Each writer
// knows what every sector of its own must hold, and verifies what it reads.
type Plan struct {
	Offset, Length int64 // of the part, multiples of 2 MiB
	Writers        int
	Requests       int // of each writer
	Seed           uint64
}

// Command plays the plan on a disk of the guest.
func (p Plan) Command(dev string) []string {
	c := []string{"disk-verify", dev}
	for _, n := range []any{p.Offset, p.Length, p.Writers, p.Requests, p.Seed} {
		c = append(c, fmt.Sprint(n))
	}
	return c
}

// PlanCounts counts what a Plan has done.
type PlanCounts struct{ Writes, Reads, Flushes, Discards, Zeroes int }

func (c PlanCounts) String() string {
	return fmt.Sprintf("writes=%d reads=%d flushes=%d discards=%d zeroes=%d", c.Writes, c.Reads, c.Flushes, c.Discards, c.Zeroes)
}

func (p Plan) check() error {
	if p.Offset < 0 || p.Offset%planBlock != 0 || p.Length <= 0 || p.Length%planBlock != 0 || p.Length > 1<<40 ||
		p.Writers < 1 || int64(p.Writers) > p.Length/planBlock || p.Requests < 1 {
		return fmt.Errorf("bad plan %+v", p)
	}
	return nil
}

// Run plays the plan and then reads everything back.
func (p Plan) Run(d PlanDisk) (PlanCounts, error) {
	if err := p.check(); err != nil {
		return PlanCounts{}, err
	}
	writers := make([]*planWriter, p.Writers)
	errs := make([]error, p.Writers)
	var wg sync.WaitGroup
	for i := range writers {
		writers[i] = p.writer(i)
		wg.Go(func() { errs[i] = writers[i].run(d) })
	}
	wg.Wait()
	var sum PlanCounts
	for i, w := range writers {
		if errs[i] == nil {
			errs[i] = w.all(d, d.Buffer)
		}
		if errs[i] != nil {
			errs[i] = fmt.Errorf("writer %d: %w", i, errs[i])
		}
		sum.Writes += w.done.Writes
		sum.Reads += w.done.Reads
		sum.Flushes += w.done.Flushes
		sum.Discards += w.done.Discards
		sum.Zeroes += w.done.Zeroes
	}
	return sum, errors.Join(errs...)
}

// Check verifies r, a disk on which the plan has been played elsewhere.
func (p Plan) Check(r io.ReaderAt) error {
	if err := p.check(); err != nil {
		return err
	}
	for i := range p.Writers {
		w := p.writer(i)
		err := w.run(nil)
		if err == nil {
			err = w.all(r, func(n int) ([]byte, error) { return make([]byte, n), nil })
		}
		if err != nil {
			return fmt.Errorf("writer %d: %w", i, err)
		}
	}
	return nil
}

// planWriter is a writer with the sectors that it knows.
type planWriter struct {
	p      Plan
	rnd    *rand.Rand
	blocks []planPart
	stamp  uint64 // the last that was written
	done   PlanCounts
}

// planPart is a block of the disk: what each of its sectors holds.
type planPart struct {
	off    int64
	stamps [planBlock / Sector]uint64
}

func (p Plan) writer(i int) *planWriter {
	w := &planWriter{p: p, rnd: rand.New(rand.NewPCG(p.Seed, uint64(i))), stamp: p.Seed<<32 | uint64(i)<<24 | stampZero}
	for b := int64(i); b < p.Length/planBlock; b += int64(p.Writers) {
		w.blocks = append(w.blocks, planPart{off: p.Offset + b*planBlock})
	}
	return w
}

// run makes the writer's requests; without a disk it only notes what they would
// leave.
func (w *planWriter) run(d PlanDisk) error {
	var buf, want []byte
	if d != nil {
		var err error
		if buf, err = d.Buffer(planLargest); err != nil {
			return err
		}
		want = make([]byte, Sector)
	}
	for range w.p.Requests {
		part := &w.blocks[w.rnd.IntN(len(w.blocks))]
		// Every order of magnitude comes as often as any other.
		n := 1 + w.rnd.IntN(1<<w.rnd.IntN(12))
		first := w.rnd.IntN(len(part.stamps) - n + 1)
		off, size := part.off+int64(first)*Sector, int64(n)*Sector
		var err error
		set := func(stamp uint64) {
			for i := range n {
				part.stamps[first+i] = stamp
			}
		}
		switch kind := w.rnd.IntN(100); {
		case kind < 55:
			w.stamp++
			w.done.Writes++
			set(w.stamp)
			if d != nil {
				Pattern(buf[:size], w.stamp, uint64(off))
				_, err = d.WriteAt(buf[:size], off)
			}
		case kind < 80:
			w.done.Reads++
			if d != nil {
				err = part.verify(d, buf, want, first, n)
			}
		case kind < 86:
			w.done.Flushes++
			if d != nil {
				err = d.Flush()
			}
		case kind < 94:
			w.done.Discards++
			set(stampUnknown)
			if d != nil {
				err = d.Discard(off, size)
			}
		default:
			w.done.Zeroes++
			set(stampZero)
			if d != nil {
				err = d.Zero(off, size)
			}
		}
		if err != nil {
			return fmt.Errorf("%v: %d bytes at %d: %w", w.done, size, off, err)
		}
	}
	if d != nil {
		return d.Flush()
	}
	return nil
}

// all reads everything back.
func (w *planWriter) all(r io.ReaderAt, buffer func(int) ([]byte, error)) error {
	buf, err := buffer(planLargest)
	if err != nil {
		return err
	}
	want := make([]byte, Sector)
	for i := range w.blocks {
		for first := 0; first < planBlock/Sector; first += planLargest / Sector {
			if err := w.blocks[i].verify(r, buf, want, first, planLargest/Sector); err != nil {
				return fmt.Errorf("at the end: %w", err)
			}
		}
	}
	return nil
}

// verify reads n sectors and compares those that are known.
func (b *planPart) verify(r io.ReaderAt, buf, want []byte, first, n int) error {
	p, known := buf[:n*Sector], false
	for _, s := range b.stamps[first : first+n] {
		known = known || s != stampUnknown
	}
	if !known {
		return nil
	}
	fill(p, 0xa5) // what a read leaves out is seen
	off := b.off + int64(first)*Sector
	if _, err := r.ReadAt(p, off); err != nil {
		return err
	}
	for i, s := range b.stamps[first : first+n] {
		at := off + int64(i)*Sector
		switch s {
		case stampUnknown:
			continue
		case stampZero:
			clear(want)
		default:
			Pattern(want, s, uint64(at))
		}
		if got := p[i*Sector : (i+1)*Sector]; !bytes.Equal(got, want) {
			return fmt.Errorf("the sector at %d begins with % x, not % x", at, got[:16], want[:16])
		}
	}
	return nil
}

// fill sets all of p to c.
func fill(p []byte, c byte) {
	p[0] = c
	for n := 1; n < len(p); n *= 2 {
		copy(p[n:], p[:n])
	}
}
