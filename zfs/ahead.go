// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"sync"
	"sync/atomic"
)

const (
	// lookAhead is how many walks one listing makes side by side.
	lookAhead = 8
	// aheadBytes is about how much all of them hold that nobody has taken yet.
	aheadBytes = 1 << 20
)

// ahead is what the walks of one listing share. The datasets below one parent
// are walked at the same time, and told in their order: a walk that is ahead
// of its turn puts what it finds into a channel of bounded length.
type ahead struct {
	ctx context.Context
	wg  sync.WaitGroup
	// free has a token for each walk that may begin. It never is waited for, so that no two walks wait for each other.
	free chan struct{}
	// mounted is where file systems are mounted, of which no error tells: it is for what is quicker there.
	mounted func() map[string][]mountPoint
	// bare tells, where snapshots are asked for, whether the last dataset of a
	// depth had none. A request for those that are not there takes as long as any
	// other, so the next dataset of that depth is asked, along with its name, for
	// its last snapshot: a host's images may have snapshots, its machines none.
	bare [16]atomic.Bool
}

// bareAt has one for all that is deeper than most hosts go.
func (a *ahead) bareAt(depth int) *atomic.Bool { return &a.bare[min(depth, len(a.bare)-1)] }

// newAhead gives a function besides that ends all walks and waits for them.
func newAhead(ctx context.Context) (*ahead, func()) {
	ctx, cancel := context.WithCancel(ctx)
	a := &ahead{ctx: ctx, free: make(chan struct{}, lookAhead), mounted: sync.OnceValue(func() map[string][]mountPoint {
		m, _ := mounts()
		return m
	})}
	for range lookAhead {
		a.free <- struct{}{}
	}
	return a, func() {
		cancel()
		a.wg.Wait()
	}
}

// take reports whether a walk of this level may begin another. Half of the
// tokens that there are remain for the walks above it, whose parts are larger.
func (a *ahead) take(level int) bool {
	if len(a.free) <= lookAhead-lookAhead>>level {
		return false
	}
	select {
	case <-a.free:
		return true
	default:
		return false
	}
}

// found is what a walk came upon: a dataset, or the error that ended it.
type found struct {
	d   *Dataset
	err error
}

// part is the walk of one dataset that is ahead of its turn. One that needs no
// walk is there already, and no token was taken for it.
type part struct {
	name  string
	there *Dataset
	found chan found
	whole bool // set before found is closed
}

// queue has the parts whose turn has not come, in order.
type queue []*part

// visit walks a dataset: at once if it is its turn, ahead of it if it may.
func (q *queue) visit(w *walk, d *Dataset, depth int) bool {
	if w.q.kinds&Bookmark == 0 && (w.q.kinds&Snapshot == 0 || d.bare) && !w.q.descends(d, depth) {
		*q = append(*q, &part{there: d})
		return len(*q) <= w.q.perPart() || q.first(w)
	}
	for {
		if w.ahead.take(w.level) {
			*q = append(*q, w.begin(d, depth))
			return true
		}
		if len(*q) == 0 {
			return w.visit(d, depth)
		}
		if !q.first(w) {
			return false
		}
	}
}

// drain tells all parts.
func (q *queue) drain(w *walk) bool {
	for len(*q) > 0 {
		if !q.first(w) {
			return false
		}
	}
	return true
}

// first tells the first part to its end.
func (q *queue) first(w *walk) bool {
	p := (*q)[0]
	*q = (*q)[1:]
	if p.there != nil {
		return w.q.kinds&p.there.Kind == 0 || w.emit(p.there, nil)
	}
	for f := range p.found {
		if !w.emit(f.d, f.err) {
			return false
		}
	}
	if !p.whole {
		return w.fail(&Error{Op: "list", Name: p.name, Err: w.ctx.Err()})
	}
	w.ahead.free <- struct{}{}
	return true
}

func (w *walk) begin(d *Dataset, depth int) *part {
	p := &part{name: d.Name, found: make(chan found, w.q.perPart())}
	sub := &walk{h: w.h, ctx: w.ctx, q: w.q, extras: w.extras, ahead: w.ahead, level: w.level + 1}
	sub.emit = func(d *Dataset, err error) bool {
		select {
		case p.found <- found{d, err}:
			return err == nil
		case <-w.ctx.Done():
			return false
		}
	}
	w.ahead.wg.Go(func() {
		defer close(p.found)
		p.whole = sub.visit(d, depth)
	})
	return p
}

// perPart is how many datasets a walk may be ahead.
func (q *query) perPart() int {
	each := 512 // bytes, about
	switch {
	case q.allProps:
		each = 16 << 10
	case q.wantProps():
		each += 256 * len(q.props)
	}
	return max(1, aheadBytes/lookAhead/each)
}
