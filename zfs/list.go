// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"iter"
	"strings"
	"syscall"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// Option narrows or widens a listing.
type Option func(*query)

type query struct {
	kinds     Kind
	depth     int
	props     []string
	allProps  bool
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
			c.Set(k, v)
		}
		out.Set(name, nvlist.Of(c))
	}
	d.props, d.asked = out, q.props
}

// Descend walks a dataset and all below it, a parent before its children, a
// dataset before its snapshots and these before its children; siblings come in
// the pool's own order. Only what is asked for is held in memory, and a walk
// that is left early ends. Datasets that vanish meanwhile are passed over. An
// error ends the walk.
//
// A channel program does not do it for many at once: with properties it takes
// longer than the requests do (each zfs.get_prop opens the dataset anew), and
// for the names of snapshots, where it takes two thirds to three quarters of
// their time, it holds up every change to the pool while it runs.
func (h *Handle) Descend(ctx context.Context, root string, opts ...Option) iter.Seq2[*Dataset, error] {
	return func(yield func(*Dataset, error) bool) {
		w := &walk{h: h, ctx: ctx, q: newQuery(opts), yield: yield}
		if err := checkName("list", root, 0); err != nil {
			yield(nil, err)
			return
		}
		d, err := h.get(ctx, "list", root, w.q.wantProps())
		if err != nil {
			yield(nil, err)
			return
		}
		if w.extras, err = h.extras(ctx, "list", root, w.q); err != nil {
			yield(nil, err)
			return
		}
		h.add(ctx, w.extras, d)
		w.q.keep(d)
		w.visit(d, 0)
	}
}

// Snapshots walks the snapshots of one dataset.
func (h *Handle) Snapshots(ctx context.Context, name string, opts ...Option) iter.Seq2[*Dataset, error] {
	return h.Descend(ctx, name, append([]Option{Snapshots, Depth(0)}, opts...)...)
}

type walk struct {
	h     *Handle
	ctx   context.Context
	q     *query
	yield func(*Dataset, error) bool
	*extras
}

// visit reports whether the walk goes on.
func (w *walk) visit(d *Dataset, depth int) bool {
	if w.q.kinds&d.Kind != 0 && !w.yield(d, nil) {
		return false
	}
	if w.q.kinds&Snapshot != 0 && !w.snapshots(d.Name) {
		return false
	}
	if w.q.kinds&Bookmark != 0 {
		marks, err := w.h.Bookmarks(w.ctx, d.Name)
		if err != nil && !isKind(err, ErrNotFound) {
			w.yield(nil, err)
			return false
		}
		for _, b := range marks {
			if !w.yield(b, nil) {
				return false
			}
		}
	}
	if depth >= w.q.depth || d.Kind == Volume {
		return true
	}
	return w.children(d.Name, depth)
}

func (w *walk) next(r *zcmd.Request, op zcmd.Op, props bool) (done bool, err error) {
	if props {
		err = r.Do(w.ctx, op)
	} else {
		// Without a reply buffer the kernel leaves the properties out.
		err = r.DoOnce(w.ctx, op)
	}
	if errors.Is(err, syscall.ESRCH) {
		return true, nil
	}
	return false, err
}

func (w *walk) children(name string, depth int) bool {
	r := w.h.dev.Request(name)
	defer r.Release()
	for {
		r.SetName(name) // the kernel wrote the child's over it
		cookie := r.Cmd.Cookie
		r.Cmd.ObjsetStats = zcmd.ObjsetStats{}
		done, err := w.next(r, zcmd.DatasetListNext, w.q.wantProps())
		if done {
			return true
		}
		if errors.Is(err, syscall.EINTR) {
			r.Cmd.Cookie = cookie
			continue
		}
		if err != nil {
			w.yield(nil, fail("list", zcmd.DatasetListNext, name, err))
			return false
		}
		props, err := r.Reply()
		if err != nil {
			w.yield(nil, &Error{Op: "list", Name: name, Err: err})
			return false
		}
		if d := w.h.fromCmd(&r.Cmd, props); !strings.ContainsAny(d.Name, "$%") && !w.visit(w.finish(d), depth+1) {
			return false
		}
	}
}

func (w *walk) snapshots(name string) bool {
	r := w.h.dev.Request(name)
	defer r.Release()
	if w.q.minTxg != 0 || w.q.maxTxg != 0 {
		in := nvlist.New(nvlist.P("snap_iter_min_txg", w.q.minTxg), nvlist.P("snap_iter_max_txg", w.q.maxTxg))
		if err := r.SetInput(in); err != nil {
			w.yield(nil, &Error{Op: "list", Name: name, Err: err})
			return false
		}
	}
	props := w.q.wantProps()
	if w.q.namesOnly || !props && !w.h.isOld() {
		// Quick: no object set is opened. Before 2.2 it gives the name alone.
		r.Cmd.Simple = 1
	}
	for {
		r.SetName(name)
		cookie := r.Cmd.Cookie
		r.Cmd.ObjsetStats = zcmd.ObjsetStats{}
		done, err := w.next(r, zcmd.SnapshotList, props)
		if done {
			return true
		}
		if errors.Is(err, syscall.EINTR) {
			r.Cmd.Cookie = cookie
			continue
		}
		if err != nil {
			w.yield(nil, fail("list", zcmd.SnapshotList, name, err))
			return false
		}
		l, err := r.Reply()
		if err != nil {
			w.yield(nil, &Error{Op: "list", Name: name, Err: err})
			return false
		}
		if !w.yield(w.finish(w.h.fromCmd(&r.Cmd, l)), nil) {
			return false
		}
	}
}

// finish adds to a dataset what is read besides, and leaves what was asked for.
func (w *walk) finish(d *Dataset) *Dataset {
	if w.extras != nil && w.q.kinds&d.Kind != 0 {
		w.h.add(w.ctx, w.extras, d)
	}
	w.q.keep(d)
	return d
}

func isKind(err, kind error) bool { return errors.Is(err, kind) }
