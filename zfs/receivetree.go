// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// ReceiveTreeOptions are how a package of streams is received.
type ReceiveTreeOptions struct {
	Props     Props // set on the top dataset, and inherited from it in place of what the streams bring
	Force     bool  // roll back changes; with an incremental package destroy what its sender no longer has
	Resumable bool  // keep the part of a stream that came if it is cut, for SendOptions.Resume and Receive
	Progress  func(bytes uint64)
}

// ReceivedTree tells what ReceiveTree did.
type ReceivedTree struct {
	Snapshots []string // that were received, in their order
	Skipped   []string // that were there already
	Bytes     uint64
}

// ReceiveTree receives what SendTree or zfs send -R, -I or -p makes: the top
// dataset of the package becomes target, what was below it comes below target.
// It reads one package from r, to its end and no further; a single stream is
// received as by Receive. Properties that the streams bring are set as received;
// nothing is mounted. An incremental package renames and promotes what the
// sender renamed and promoted, and these are left unmounted. What came whole
// before an error stays. An error over a property alone comes with the result.
func (h *Handle) ReceiveTree(ctx context.Context, r io.Reader, target string, o ReceiveTreeOptions) (*ReceivedTree, error) {
	const op = "receive"
	head, first, err := readBegin(ctx, op, r, target)
	if err != nil {
		return nil, err
	}
	if !first.Begin.Compound {
		got, err := h.receive(ctx, op, r, incoming{head: head, first: first}, target, o.stream(), feed)
		if got == nil {
			return nil, err
		}
		_, snap, _ := cutSnapshot(first.Begin.Name)
		if !strings.Contains(target, "@") {
			target += "@" + snap
		}
		return &ReceivedTree{Snapshots: []string{target}, Bytes: got.Bytes}, err
	}
	if err := checkName(op, target, 0); err != nil {
		return nil, err
	}
	t := &treeReceiver{h: h, ctx: ctx, op: op, target: target, o: o, guids: map[uint64]string{}, propErrs: map[string]error{}}
	// Reads between the streams end with ctx too. Where one stream takes the deadline back, run looks at ctx next.
	stop := readDeadline(ctx, r)
	err = t.run(r, head, first)
	stop()
	if err != nil {
		if cerr := canceled(ctx, op, target); cerr != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			return &t.got, cerr
		}
		if e := (*Error)(nil); !errors.As(err, &e) {
			err = &Error{Op: op, Name: target, Err: err}
		}
		return &t.got, err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(t.propErrs)) {
		errs = append(errs, t.propErrs[name])
	}
	return &t.got, errors.Join(errs...)
}

func (o *ReceiveTreeOptions) stream() ReceiveOptions {
	return ReceiveOptions{Props: o.Props, Force: o.Force, Resumable: o.Resumable, Progress: o.Progress}
}

type treeReceiver struct {
	h        *Handle
	ctx      context.Context
	op       string
	target   string
	o        ReceiveTreeOptions
	source   string // the top dataset at the sender's
	from     string // the snapshot that the package is incremental to
	to       string
	raw      bool
	stream   *tree             // nil for zfs send -I, which sends no list
	guids    map[uint64]string // the snapshots at and below target
	propErrs map[string]error  // by dataset: what its last stream could not set
	got      ReceivedTree
}

func (t *treeReceiver) run(r io.Reader, head header, first Record) error {
	list, err := t.header(r, &head, first)
	if err != nil {
		return err
	}
	t.source, t.to, _ = cutSnapshot(first.Begin.Name)
	t.from, t.raw = list.Str("fromsnap"), list.Has("raw")
	replicate := list.Has("fss") && !list.Has("not_recursive")
	if list.Has("fss") {
		if t.stream, err = readTree(list.List("fss")); err != nil {
			return err
		}
	}
	if replicate && t.from != "" {
		if err := t.reconcile(false); err != nil {
			return err
		}
	}
	if err := t.index(t.target); err != nil {
		return err
	}
	for {
		if err := canceled(t.ctx, t.op, t.target); err != nil {
			return err
		}
		var head header
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return streamError("cut short between its streams: %w", err)
		}
		rec, err := head.parse()
		t.got.Bytes += recordSize
		switch {
		case err != nil:
			return err
		case rec.Type == RecordEnd:
			return t.finish(replicate)
		case rec.Begin == nil || rec.Begin.Compound:
			return streamError("%v between its streams", rec.Type)
		}
		if err := t.one(r, head, rec); err != nil {
			return err
		}
	}
}

// header reads the list of a package, which may have none, and the END behind it.
func (t *treeReceiver) header(r io.Reader, head *header, first Record) (*nvlist.List, error) {
	var sum fletcher4
	sum.update(head[:])
	payload, err := sumPayload(r, first, &sum, make([]byte, 64<<10))
	if err != nil {
		return nil, err
	}
	var end header
	if _, err := io.ReadFull(r, end[:]); err != nil {
		return nil, streamError("cut short in its header: %w", err)
	}
	if end.typ() != RecordEnd || readChecksum(end[8:]) != sum {
		return nil, streamError("checksum mismatch in its header")
	}
	t.got.Bytes = 2*recordSize + uint64(len(payload))
	if len(payload) == 0 {
		return nil, nil
	}
	l, err := nvlist.Decode(payload)
	if err != nil {
		return nil, streamError("its list: %w", err)
	}
	return l, nil
}

// index learns the snapshots of a dataset and all below it; none if it is not there.
func (t *treeReceiver) index(root string) error {
	for d, err := range t.h.Descend(t.ctx, root, Snapshots) {
		if isKind(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, known := t.guids[d.GUID]; !known {
			t.guids[d.GUID] = strings.Clone(d.Name)
		}
	}
	return nil
}

// one receives one stream of the package.
func (t *treeReceiver) one(r io.Reader, head header, rec Record) error {
	b := rec.Begin
	rest, ok := strings.CutPrefix(b.Name, t.source)
	if !ok || rest == "" || rest[0] != '/' && rest[0] != '@' {
		return streamError("a stream of %.80q in a package of %s", b.Name, t.source)
	}
	fs, snap, _ := cutSnapshot(t.target + rest)
	in := incoming{head: head, first: rec}
	var props *treeSnap
	isNew := b.FromGUID == 0 || b.Flags&flagClone != 0
	if t.stream != nil {
		f := t.stream.bySnap[b.ToGUID]
		if f == nil {
			return streamError("its list has not %.80q", b.Name)
		}
		props = f.find(snap)
		in.received = f.received()
		var err error
		if fs, err = t.place(fs, b, f, isNew); err != nil {
			return err
		}
	}
	o := t.o.stream()
	base := t.got.Bytes
	o.Progress = func(n uint64) {
		t.got.Bytes = base + n
		if t.o.Progress != nil {
			t.o.Progress(t.got.Bytes)
		}
	}
	if there := t.guids[b.ToGUID]; strings.HasPrefix(there, fs+"@") {
		t.got.Skipped = append(t.got.Skipped, there)
		if err := feed(io.Discard, r, rec, o.Progress); err != nil {
			return streamError("reading over %s: %w", there, err)
		}
		return nil
	}
	if err := t.override(&in, &o, b, fs, isNew); err != nil {
		return err
	}
	if b.Flags&flagClone != 0 {
		if o.Origin = t.guids[b.FromGUID]; o.Origin == "" {
			if err := t.index(pool(t.target)); err != nil {
				return err
			}
			if o.Origin = t.guids[b.FromGUID]; o.Origin == "" {
				return &Error{Op: t.op, Name: fs + "@" + snap, Kind: ErrNotFound, Hint: "what it is a clone of is not here"}
			}
		}
	}
	got, err := t.h.receive(t.ctx, t.op, r, in, fs+"@"+snap, o, feed)
	if got == nil {
		return err
	}
	delete(t.propErrs, fs)
	if err != nil {
		t.propErrs[fs] = err
	}
	t.got.Bytes = base + got.Bytes - recordSize
	t.guids[b.ToGUID] = fs + "@" + snap
	t.got.Snapshots = append(t.got.Snapshots, fs+"@"+snap)
	if props != nil && props.props.Len() > 0 {
		return t.setReceived(fs+"@"+snap, props.props)
	}
	return nil
}

// received are the properties that come with a dataset. The place of the key is
// left for later: it cannot be set before the dataset is an encryption root.
func (f *treeFS) received() *nvlist.List {
	if f.props == nil {
		return nil
	}
	l := nvlist.New()
	for name, v := range f.props.All() {
		if name != "keylocation" {
			l.Set(name, v)
		}
	}
	return l
}

// place finds where a stream goes if what it belongs to has another name here.
func (t *treeReceiver) place(fs string, b *Begin, f *treeFS, isNew bool) (string, error) {
	if fs == t.target {
		return fs, nil
	}
	look := fs
	if isNew {
		look = parentOf(fs)
	}
	there, err := t.h.Exists(t.ctx, look)
	if there || err != nil {
		return fs, err
	}
	if isNew {
		if parent, _, ok := cutSnapshot(t.guids[f.parentFrom]); ok {
			return parent + fs[len(look):], nil
		}
	} else if at, _, ok := cutSnapshot(t.guids[b.FromGUID]); ok {
		return at, nil
	}
	return fs, nil
}

// override sorts the properties that are set in place of the stream's: at the
// top they are set, below it they are inherited from there.
func (t *treeReceiver) override(in *incoming, o *ReceiveOptions, b *Begin, fs string, isNew bool) error {
	in.local = nvlist.New()
	if fs != t.target {
		o.Props = nil
		kind := Filesystem
		if b.Volume {
			kind = Volume
		}
		for name := range t.o.Props {
			if full, ok := aliases[name]; ok {
				name = full
			}
			p, native := properties[name]
			switch {
			case isUser(name), native && p.kinds&kind != 0 && p.attr&inherits != 0:
				nvlist.Set(in.local, name, nvlist.Flag{})
			case native:
				in.received.Delete(name)
			}
		}
	}
	_, own := o.Props["encryption"]
	if isNew && in.received != nil && b.Features&FeatureRaw == 0 && !own {
		// A stream with properties that is not raw is of a dataset that is not encrypted.
		nvlist.Set(in.local, "encryption", uint64(2))
	}
	if !isNew || !t.o.Force {
		return nil
	}
	if there, err := t.h.Exists(t.ctx, fs); err != nil || !there {
		return err
	}
	return t.h.unmountAll(t.ctx, []string{fs})
}

// setReceived sets properties of a snapshot as if they came with it, which no stream of one brings.
func (t *treeReceiver) setReceived(name string, props *nvlist.List) error {
	r := t.h.dev.Request(name)
	defer r.Release()
	if err := r.SetInput(props); err != nil {
		return err
	}
	r.Cmd.Cookie = 1
	if err := r.Do(t.ctx, zcmd.SetProp); err != nil {
		t.propErrs[name] = fail(t.op+": set", zcmd.SetProp, name, err)
	}
	return nil
}

func (t *treeReceiver) finish(replicate bool) error {
	if replicate && t.from != "" {
		if err := t.reconcile(true); err != nil {
			return err
		}
	}
	if t.raw && t.stream != nil {
		return t.fixKeys()
	}
	return nil
}

// How a change of key is forced on datasets that came raw (dcp_cmd_t).
const (
	forceNewKey  = 4
	forceInherit = 5
)

// fixKeys makes encryption roots of those datasets that were roots at the
// sender's, and of no others but the top: each comes as one with a raw stream.
func (t *treeReceiver) fixKeys() error {
	local, err := t.h.gatherTree(t.ctx, t.op, t.target, "", "")
	if err != nil {
		return err
	}
	for _, f := range local.order {
		sf := t.counterpart(f)
		if !f.encrypted || sf == nil {
			continue
		}
		cmd := uint64(0)
		switch {
		case sf.encRoot && !f.encRoot && f.origin == "":
			cmd = forceNewKey
		case !sf.encRoot && f.encRoot && f.name != t.target:
			cmd = forceInherit
		}
		if cmd != 0 {
			if _, err := t.h.call(t.ctx, t.op+": change-key", zcmd.ChangeKey, f.name, nvlist.New(nvlist.P("crypt_cmd", cmd))); err != nil {
				return err
			}
		}
		if where := sf.props.Str("keylocation"); sf.encRoot && where != "" && where != f.props.Str("keylocation") {
			if err := t.h.Set(t.ctx, f.name, Props{"keylocation": where}); err != nil {
				return err
			}
		}
	}
	return nil
}

// counterpart is what a dataset here is in the package.
func (t *treeReceiver) counterpart(f *treeFS) *treeFS {
	for _, s := range f.snaps {
		if sf := t.stream.bySnap[s.guid]; sf != nil {
			return sf
		}
	}
	return nil
}
