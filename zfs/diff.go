// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"os"
	"syscall"
	"time"

	"github.com/skepvm/skep/zfs/internal/zcmd"
)

// ChangeType is what happened to a file, zfs-diff(8).
type ChangeType byte

// The changes.
const (
	Added    ChangeType = '+'
	Gone     ChangeType = '-'
	Modified ChangeType = 'M'
	Renamed  ChangeType = 'R'
)

// Change is a difference between two snapshots.
type Change struct {
	Type  ChangeType
	Path  string // from the root of the file system
	To    string // of a renamed file: its new path
	Mode  uint64 // as st_mode
	Time  time.Time
	Links int64 // of a modified file: by how many its links changed
}

const (
	diffRecord = 24 // dmu_diff_record_t
	diffInUse  = 2
	diffFree   = 4
	modeFormat = 0o170000
	modeDir    = 0o040000
)

// Diff walks what changed in a file system from one of its snapshots to a later
// one, in no order of names. A walk that is left early ends.
func (h *Handle) Diff(ctx context.Context, from, to string) iter.Seq2[Change, error] {
	const op = "diff"
	return func(yield func(Change, error) bool) {
		if err := errors.Join(checkName(op, from, '@'), checkName(op, to, '@')); err != nil {
			yield(Change{}, err)
			return
		}
		r, w, err := os.Pipe()
		if err != nil {
			yield(Change{}, &Error{Op: op, Name: to, Err: err})
			return
		}
		done := make(chan error, 1)
		fd := int32(w.Fd())
		go func() {
			req := h.dev.Request(to)
			defer req.Release()
			zcmd.SetString(req.Cmd.Value[:], from)
			req.Cmd.Cookie = uint64(fd)
			err := req.DoOnce(ctx, zcmd.Diff)
			_ = w.Close()
			done <- err
		}()
		d := differ{h: h, ctx: ctx, from: from, to: to, yield: yield}
		rerr := d.records(r)
		_ = r.Close() // the kernel's next write fails
		err = <-done
		if d.stopped {
			return
		}
		if rerr == nil || errors.Is(rerr, io.ErrUnexpectedEOF) {
			rerr = fail(op, zcmd.Diff, to, err)
		}
		if rerr != nil {
			yield(Change{}, rerr)
		}
	}
}

type differ struct {
	h        *Handle
	ctx      context.Context
	from, to string
	yield    func(Change, error) bool
	stopped  bool
}

func (d *differ) emit(c Change) { d.stopped = d.stopped || !d.yield(c, nil) }

func (d *differ) records(r io.Reader) error {
	for {
		var b [diffRecord]byte
		if _, err := io.ReadFull(r, b[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		typ, first, last := le64(b[:]), le64(b[8:]), binary.LittleEndian.Uint64(b[16:])
		var err error
		switch typ {
		case diffInUse:
			for obj := first; obj <= last && err == nil && !d.stopped; obj++ {
				err = d.inUse(obj)
			}
		case diffFree:
			err = d.free(first, last)
		}
		if err != nil || d.stopped {
			return err
		}
		if err := canceled(d.ctx, "diff", d.to); err != nil {
			return err
		}
	}
}

type objStat struct {
	zcmd.Stat
	path string
}

func (s objStat) dir() bool { return s.Mode&modeFormat == modeDir }

// stat gives nil for an object that is not there or is no file.
func (d *differ) stat(ds string, obj uint64) (*objStat, error) {
	r := d.h.dev.Request(ds)
	defer r.Release()
	r.Cmd.Obj = obj
	err := r.DoOnce(d.ctx, zcmd.ObjToStats)
	s := &objStat{r.Cmd.Stat, zcmd.String(r.Cmd.Value[:])}
	switch {
	case err == nil:
		return s, nil
	case errors.Is(err, syscall.ESTALE):
		s.path = "(on_delete_queue)"
		return s, nil
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTSUP):
		return nil, nil
	}
	return nil, fail("diff", zcmd.ObjToStats, ds, err)
}

func change(t ChangeType, s *objStat) Change {
	return Change{Type: t, Path: s.path, Mode: s.Mode, Time: time.Unix(int64(s.Ctime[0]), int64(s.Ctime[1]))}
}

func (d *differ) inUse(obj uint64) error {
	f, err := d.stat(d.from, obj)
	if err != nil {
		return err
	}
	t, err := d.stat(d.to, obj)
	if err != nil {
		return err
	}
	switch {
	case f == nil && t == nil:
	case f == nil:
		d.emit(change(Added, t))
	case t == nil:
		d.emit(change(Gone, f))
	case f.Gen != t.Gen || f.Mode&modeFormat != t.Mode&modeFormat:
		d.emit(change(Gone, f))
		if !d.stopped {
			d.emit(change(Added, t))
		}
	case f.Ctime == t.Ctime:
	default:
		c := change(Modified, t)
		if !f.dir() && f.Links != 0 && t.Links != 0 {
			c.Links = int64(t.Links) - int64(f.Links)
		}
		if c.Links > 0 {
			c.Path = f.path // the name that both know
		}
		if c.Links == 0 && f.path != t.path {
			c.Type, c.Path, c.To = Renamed, f.path, t.path
		}
		d.emit(c)
	}
	return nil
}

// free tells of the objects in a range that only the earlier snapshot has.
func (d *differ) free(first, last uint64) error {
	r := d.h.dev.Request(d.from)
	defer r.Release()
	r.Cmd.Obj = first - 1
	for r.Cmd.Obj < last && !d.stopped {
		err := r.DoOnce(d.ctx, zcmd.NextObj)
		if errors.Is(err, syscall.ESRCH) {
			return nil
		}
		if err != nil {
			return fail("diff", zcmd.NextObj, d.from, err)
		}
		if r.Cmd.Obj > last {
			return nil
		}
		s, err := d.stat(d.from, r.Cmd.Obj)
		if err != nil {
			return err
		}
		if s != nil && s.path != "(on_delete_queue)" {
			d.emit(change(Gone, s))
		}
	}
	return nil
}
