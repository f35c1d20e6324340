// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"strings"
	"syscall"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// walk is the part of a listing that one goroutine does: all of it, or what is
// below one dataset.
type walk struct {
	h      *Handle
	ctx    context.Context
	q      *query
	extras *extras
	ahead  *ahead
	level  int  // how many walks this one is ahead of
	none   bool // the last dataset whose snapshots were asked for had none
	// emit takes what was found, in order, and reports whether the walk goes on.
	emit func(*Dataset, error) bool
}

// prevSnap is the name of a dataset's last snapshot in what the kernel tells of
// it; for a clone that has none it is its origin.
const prevSnap = "prevsnap"

// bare reports whether the kernel's answer says that a dataset has no snapshots.
func (q *query) bare(name string, props *nvlist.List) bool {
	return q.kinds&Snapshot != 0 && !strings.HasPrefix(props.List(prevSnap).Str("value"), name+"@")
}

// fail gives the error that ends the walk.
func (w *walk) fail(err error) bool {
	w.emit(nil, err)
	return false
}

// visit reports whether the walk goes on.
func (w *walk) visit(d *Dataset, depth int) bool {
	if w.q.kinds&d.Kind != 0 && !w.emit(d, nil) {
		return false
	}
	if w.q.kinds&Snapshot != 0 && !d.bare {
		if !w.snapshots(d.Name) {
			return false
		}
		w.ahead.bareAt(depth).Store(w.none)
	}
	if w.q.kinds&Bookmark != 0 {
		marks, err := w.h.Bookmarks(w.ctx, d.Name)
		if err != nil && !isKind(err, ErrNotFound) {
			return w.fail(err)
		}
		for _, b := range marks {
			if !w.emit(b, nil) {
				return false
			}
		}
	}
	return !w.q.descends(d, depth) || w.children(d.Name, depth)
}

// descends reports whether a dataset may have children that are asked for.
func (q *query) descends(d *Dataset, depth int) bool { return depth < q.depth && d.Kind != Volume }

func (w *walk) next(r *zcmd.Request, op zcmd.Op, props bool) (done bool, err error) {
	if props {
		err = r.Do(w.ctx, op)
	} else {
		// Without a reply buffer the kernel leaves the properties out.
		err = r.DoOnce(w.ctx, op)
	}
	if errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.ENOENT) {
		return true, nil // at its end, or gone since it was found
	}
	return false, err
}

func (w *walk) children(name string, depth int) bool {
	r := w.h.dev.Request(name)
	defer r.Release()
	var later queue
	depth++
	for {
		r.SetName(name) // the kernel wrote the child's over it
		cookie := r.Cmd.Cookie
		r.Cmd.ObjsetStats = zcmd.ObjsetStats{}
		done, err := w.next(r, zcmd.DatasetListNext, w.q.wantProps() || w.ahead.bareAt(depth).Load())
		if done {
			return later.drain(w)
		}
		if errors.Is(err, syscall.EINTR) {
			r.Cmd.Cookie = cookie
			continue
		}
		if err != nil {
			return later.drain(w) && w.fail(fail("list", zcmd.DatasetListNext, name, err))
		}
		props, err := r.ReplySome(w.q.want)
		if err != nil {
			return later.drain(w) && w.fail(&Error{Op: "list", Name: name, Err: err})
		}
		d := w.h.fromCmd(&r.Cmd, props)
		if props != nil {
			d.bare = w.q.bare(d.Name, props)
			w.ahead.bareAt(depth).Store(d.bare)
		}
		if !strings.ContainsAny(d.Name, "$%") && !later.visit(w, w.finish(d), depth) {
			return false
		}
	}
}

func (w *walk) snapshots(name string) bool {
	return w.requestSnapshots(name, "", w.q.namesOnly && w.q.minTxg == 0 && w.q.maxTxg == 0)
}

// requestSnapshots tells the snapshots behind one that was told, "" for all. If
// there are some, the file system's directory of them may tell them instead.
func (w *walk) requestSnapshots(name, told string, directory bool) bool {
	w.none = false
	r := w.h.dev.Request(name)
	defer r.Release()
	if w.q.minTxg != 0 || w.q.maxTxg != 0 {
		in := nvlist.New(nvlist.P("snap_iter_min_txg", w.q.minTxg), nvlist.P("snap_iter_max_txg", w.q.maxTxg))
		if err := r.SetInput(in); err != nil {
			return w.fail(&Error{Op: "list", Name: name, Err: err})
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
			w.none = cookie == 0
			return told == "" || w.lost(name, told)
		}
		if errors.Is(err, syscall.EINTR) {
			r.Cmd.Cookie = cookie
			continue
		}
		if err != nil {
			return w.fail(fail("list", zcmd.SnapshotList, name, err))
		}
		l, err := r.ReplySome(w.q.want)
		if err != nil {
			return w.fail(&Error{Op: "list", Name: name, Err: err})
		}
		if cookie == 0 && directory {
			if d := w.snapshotDir(name); d != nil {
				return d.tell(w)
			}
		}
		d := w.h.fromCmd(&r.Cmd, l)
		switch {
		case told == "":
			if !w.emit(w.finish(d), nil) {
				return false
			}
		case told == d.Name:
			told = ""
		}
	}
}

// lost ends a walk whose place among the snapshots has gone, unless all of them have.
func (w *walk) lost(name, told string) bool {
	there, err := w.h.Exists(w.ctx, name)
	switch {
	case err != nil:
		return w.fail(err)
	case there:
		return w.fail(&Error{Op: "list", Name: name, Kind: ErrBusy, Hint: "it was unmounted, and " + told + " destroyed, while its snapshots were listed"})
	}
	return true
}

// finish adds to a dataset what is read besides, and leaves what was asked for.
func (w *walk) finish(d *Dataset) *Dataset {
	if w.extras != nil && w.q.kinds&d.Kind != 0 {
		w.h.add(w.ctx, w.extras, d)
	}
	if !w.q.wantProps() {
		d.props = nil // it was asked for one that tells of snapshots
	}
	w.q.keep(d)
	return d
}
