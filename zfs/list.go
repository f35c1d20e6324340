// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"github.com/skepvm/skep/zfs/nvlist"
)

// Option narrows or widens a listing.
type Option func(*query)

type query struct {
	kinds     Kind
	depth     int
	props     []string
	allProps  bool
	want      func(string) bool // of what the kernel tells; nil for all
	namesOnly bool
	minTxg    uint64
	maxTxg    uint64
}

// Filesystems asks for file systems. Without any of the kinds a listing gives file systems and volumes.
func Filesystems(q *query) { q.kinds |= Filesystem }

// Volumes asks for volumes.
func Volumes(q *query) { q.kinds |= Volume }

// Snapshots asks for snapshots.
func Snapshots(q *query) { q.kinds |= Snapshot }

// Bookmarks asks for bookmarks.
func Bookmarks(q *query) { q.kinds |= Bookmark }

// NamesOnly asks for names and kinds alone: the quickest listing.
func NamesOnly(q *query) { q.namesOnly = true }

// Depth bounds how far a listing goes down: 0 is the root alone, 1 its children.
func Depth(n int) Option { return func(q *query) { q.depth = n } }

// With asks for these properties, and no others are kept. With() asks for all.
func With(props ...string) Option {
	return func(q *query) {
		q.allProps = q.allProps || len(props) == 0
		q.props = append(q.props, props...)
	}
}

// CreatedBetween asks for the snapshots that were created in these transaction groups, 0 for no bound.
func CreatedBetween(minTxg, maxTxg uint64) Option {
	return func(q *query) { q.minTxg, q.maxTxg = minTxg, maxTxg }
}

func newQuery(opts []Option) *query {
	q := &query{depth: maxDepth + 1}
	for _, o := range opts {
		o(q)
	}
	if q.kinds == 0 {
		q.kinds = heads
	}
	for i, p := range q.props {
		if full, ok := aliases[p]; ok {
			q.props[i] = full
		}
	}
	if !q.allProps {
		snaps := q.kinds&Snapshot != 0
		q.want = func(name string) bool { return snaps && name == prevSnap || slices.Contains(q.props, name) }
	}
	return q
}

func (q *query) wantProps() bool { return !q.namesOnly && (q.allProps || len(q.props) > 0) }

// keep leaves of the properties what the query asked for, in memory of its own.
func (q *query) keep(d *Dataset) {
	l := d.props
	if l == nil || q.allProps {
		return
	}
	out := nvlist.New()
	for _, name := range q.props {
		e := l.List(name)
		if e == nil {
			continue
		}
		c := nvlist.New()
		for k, v := range e.All() {
			if s, ok := v.Str(); ok {
				v = nvlist.Of(strings.Clone(s))
			}
			c.Set(word(k), v)
		}
		out.Set(name, nvlist.Of(c))
	}
	d.props, d.asked = out, q.props
}

// word is k in memory that is not the reply's.
func word(k string) string {
	switch k {
	case "value":
		return "value"
	case "source":
		return "source"
	}
	return strings.Clone(k)
}

// Descend walks a dataset and all below it, a parent before its children, a
// dataset before its snapshots and these before its children; siblings come in
// the pool's own order. Only what is asked for is held in memory, and a walk
// that is left early ends. Datasets that vanish meanwhile are passed over. An
// error ends the walk.
//
// It is several requests ahead of who reads it: each opens a dataset that is not
// mounted anew, which takes a processor's time, and a disk's where it is not cached.
//
// The names of a mounted file system's snapshots (NamesOnly) come from its own
// directory of them, hundreds in one call of the kernel. Those that have no
// snapshots are not asked for them, where their siblings have none either.
//
// A channel program does not do it for many at once: with properties it takes
// longer than the requests do (each zfs.get_prop opens the dataset anew), and
// for the names of snapshots, where it takes two thirds to three quarters of
// their time, it holds up every change to the pool while it runs.
func (h *Handle) Descend(ctx context.Context, root string, opts ...Option) iter.Seq2[*Dataset, error] {
	return func(yield func(*Dataset, error) bool) {
		if err := checkName("list", root, 0); err != nil {
			yield(nil, err)
			return
		}
		q := newQuery(opts)
		d, err := h.get(ctx, "list", root, q.wantProps())
		if err != nil {
			yield(nil, err)
			return
		}
		extras, err := h.extras(ctx, "list", root, q)
		if err != nil {
			yield(nil, err)
			return
		}
		h.add(ctx, extras, d)
		q.keep(d)
		ahead, done := newAhead(ctx)
		defer done()
		w := &walk{h: h, ctx: ahead.ctx, q: q, extras: extras, ahead: ahead, emit: func(d *Dataset, err error) bool {
			if err == nil && ctx.Err() != nil {
				d, err = nil, &Error{Op: "list", Name: root, Err: ctx.Err()} // what was found ahead is not told any more
			}
			return yield(d, err) && err == nil
		}}
		w.visit(d, 0)
	}
}

// Snapshots walks the snapshots of one dataset.
func (h *Handle) Snapshots(ctx context.Context, name string, opts ...Option) iter.Seq2[*Dataset, error] {
	return h.Descend(ctx, name, append([]Option{Snapshots, Depth(0)}, opts...)...)
}

func isKind(err, kind error) bool { return errors.Is(err, kind) }
