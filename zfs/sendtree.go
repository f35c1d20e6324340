// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/skepvm/skep/zfs/nvlist"
)

// SendTreeOptions are how a dataset and all below it are sent, as by zfs send -R.
type SendTreeOptions struct {
	From         string             // "@NAME": what the streams are incremental to, "" for full ones
	Intermediate bool               // with From, the snapshots in between as well (-I); without From all are sent
	Raw          bool               // as it is on disk; encrypted datasets cannot be sent with their properties otherwise
	Compressed   bool               // blocks that are compressed on disk stay so
	LargeBlocks  bool               // blocks over 128 KiB stay so
	Embedded     bool               // what is embedded in block pointers stays so
	Progress     func(bytes uint64) // called as the package goes out
}

// SendTree writes a package of streams to w, for ReceiveTree or zfs receive:
// the snapshot "DATASET@NAME", the snapshots of that name of all datasets below,
// those before them, and the properties that are set on each. A dataset that
// came after the snapshot is left out; one that is older and has no snapshot of
// that name is ErrNotFound. The snapshots are held while they are sent. As with
// Send, an error leaves a package in w that is of no use, and so does the end of the
// context, which ends a Write that blocks only where w has a SetWriteDeadline.
func (h *Handle) SendTree(ctx context.Context, w io.Writer, snapshot string, o SendTreeOptions) (err error) {
	const op = "send -R"
	if err := checkName(op, snapshot, '@'); err != nil {
		return err
	}
	root, to, _ := cutSnapshot(snapshot)
	s := &treeSender{h: h, ctx: ctx, w: w, o: o, to: to, from: strings.TrimPrefix(o.From, "@")}
	if o.From != "" {
		if err := checkName(op, root+"@"+s.from, '@'); err != nil {
			return err
		}
	}
	if s.tree, err = h.gatherTree(ctx, op, root, s.from, to); err != nil {
		return err
	}
	top := s.tree.order[0]
	if s.from != "" && top.find(s.from) == nil {
		return &Error{Op: op, Name: root + "@" + s.from, Kind: ErrNotFound}
	}
	if err := s.checkEncryption(op); err != nil {
		return err
	}
	jobs, err := s.plan(op)
	if err != nil {
		return err
	}
	release, err := s.hold(jobs)
	if err != nil {
		return err
	}
	defer func() {
		if rerr := release(); err == nil {
			err = rerr
		}
	}()
	if err := s.header(op, snapshot); err != nil {
		return err
	}
	for _, j := range jobs {
		if err := s.send(j); err != nil {
			return err
		}
	}
	return s.write(op, make([]byte, recordSize), func(b []byte) { b[0] = byte(RecordEnd) })
}

type treeSender struct {
	h        *Handle
	ctx      context.Context
	w        io.Writer
	o        SendTreeOptions
	from, to string
	tree     *tree
	sent     uint64
}

// job is one stream of the package.
type job struct {
	snap string
	from string // full name, "" for a full stream
}

func (s *treeSender) checkEncryption(op string) error {
	for _, f := range s.tree.order {
		if f.encrypted && !s.o.Raw {
			return &Error{Op: op, Name: f.name, Kind: ErrInvalid, Hint: "encrypted: with its properties it can be sent raw only"}
		}
	}
	return nil
}

// plan puts the streams in an order in which each finds its parent and its origin received.
func (s *treeSender) plan(op string) ([]job, error) {
	origins := map[uint64]bool{}
	for _, f := range s.tree.order {
		origins[f.originGUID] = true
	}
	var jobs []job
	done := map[*treeFS]bool{}
	ready := func(guid uint64, f *treeFS) bool {
		other := s.tree.bySnap[guid]
		return guid == 0 || other == nil || other == f || done[other]
	}
	for len(done) < len(s.tree.order) {
		before := len(done)
		for _, f := range s.tree.order {
			if !done[f] && ready(f.parentFrom, f) && ready(f.originGUID, f) {
				jobs = append(jobs, s.streams(f, origins)...)
				done[f] = true
			}
		}
		if len(done) == before {
			return nil, &Error{Op: op, Name: s.tree.order[0].name, Kind: ErrInvalid, Hint: "its datasets depend on each other in a circle"}
		}
	}
	return jobs, nil
}

// streams are those of one dataset. One without the snapshot From is new since and goes whole.
func (s *treeSender) streams(f *treeFS, origins map[uint64]bool) []job {
	var jobs []job
	prev := ""
	seen := s.from == "" || f.find(s.from) == nil
	for _, sn := range f.snaps {
		full := f.name + "@" + sn.name
		if !seen {
			if seen = sn.name == s.from; seen {
				prev = full
			}
			continue
		}
		if s.from == "" || s.o.Intermediate || sn.name == s.to || origins[sn.guid] {
			from := prev
			if from == "" {
				from = f.origin
			}
			jobs = append(jobs, job{full, from})
			prev = full
		}
		if sn.name == s.to {
			break
		}
	}
	return jobs
}

// hold keeps what is to be sent from being destroyed meanwhile; a pool that is read-only needs that not.
func (s *treeSender) hold(jobs []job) (release func() error, err error) {
	var id [8]byte
	_, _ = rand.Read(id[:]) // it does not fail
	tag := fmt.Sprintf(".send-%x", id)
	names := make([]string, 0, len(jobs)+1)
	there := map[string]bool{}
	for _, j := range jobs {
		for _, n := range []string{j.from, j.snap} {
			if n != "" && !there[n] {
				there[n] = true
				names = append(names, n)
			}
		}
	}
	err = s.h.Hold(s.ctx, tag, names, true)
	if isKind(err, ErrReadOnly) {
		return func() error { return nil }, nil
	}
	return func() error { return s.h.Release(context.WithoutCancel(s.ctx), tag, names) }, err
}

func (s *treeSender) send(j job) error {
	base := s.sent
	return s.h.Send(s.ctx, s.w, j.snap, SendOptions{
		From: j.from, Raw: s.o.Raw, Compressed: s.o.Compressed, LargeBlocks: s.o.LargeBlocks, Embedded: s.o.Embedded || s.o.Raw,
		Progress: func(n uint64) {
			s.sent = base + n
			if s.o.Progress != nil {
				s.o.Progress(s.sent)
			}
		},
	})
}

// header writes what zfs receive wants to know of all streams before the first
// of them: a BEGIN of its own kind, with a list, and its END with the checksum.
func (s *treeSender) header(op, snapshot string) error {
	l := nvlist.New()
	if s.from != "" {
		nvlist.Set(l, "fromsnap", s.from)
	}
	nvlist.Set(l, "tosnap", s.to)
	if s.o.Raw {
		nvlist.Set(l, "raw", nvlist.Flag{})
	}
	nvlist.Set(l, "fss", s.tree.list())
	payload, err := l.Encode(nvlist.XDR)
	if err == nil && len(payload) > maxPayload {
		err = fmt.Errorf("the list of its snapshots has %d bytes, %d at most: %w", len(payload), maxPayload, ErrInvalid)
	}
	if err != nil {
		return &Error{Op: op, Name: snapshot, Err: err}
	}
	var sum fletcher4
	err = s.write(op, append(make([]byte, recordSize, recordSize+len(payload)), payload...), func(b []byte) {
		binary.LittleEndian.PutUint32(b[4:], uint32(len(payload)))
		binary.LittleEndian.PutUint64(b[8:], beginMagic)
		binary.LittleEndian.PutUint64(b[16:], headerCompound)
		copy(b[8+48:8+48+255], snapshot)
		sum.update(b)
	})
	if err != nil {
		return err
	}
	return s.write(op, make([]byte, recordSize), func(b []byte) {
		b[0] = byte(RecordEnd)
		for i, v := range sum {
			binary.LittleEndian.PutUint64(b[8+8*i:], v)
		}
	})
}

func (s *treeSender) write(op string, b []byte, fill func([]byte)) error {
	fill(b)
	if err := canceled(s.ctx, op, s.tree.order[0].name); err != nil {
		return err
	}
	stop := writeDeadline(s.ctx, s.w)
	_, err := s.w.Write(b)
	stop()
	if err != nil {
		if cerr := canceled(s.ctx, op, s.tree.order[0].name); cerr != nil {
			return cerr
		}
		return &Error{Op: op, Name: s.tree.order[0].name, Hint: "writing the stream", Err: err}
	}
	s.sent += uint64(len(b))
	return nil
}
