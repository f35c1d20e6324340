// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/skepvm/skep/zfs/nvlist"
)

// tree is what a package of streams tells of the datasets in it: the "fss" of
// its header, in the words of send_iterate_fs of libzfs.
type tree struct {
	order  []*treeFS // a parent before its children
	bySnap map[uint64]*treeFS
}

type treeFS struct {
	name       string
	guid       uint64
	kind       Kind
	createTxg  uint64
	parentFrom uint64 // GUID of the parent's snapshot that the package is incremental to, or of its last
	origin     string // of a clone
	originGUID uint64
	encrypted  bool
	encRoot    bool
	props      *nvlist.List
	snaps      []treeSnap // by age

	from  uint64 // the children's parentFrom
	toTxg uint64 // when the last snapshot that is sent was made, of this dataset or one above
}

type treeSnap struct {
	name  string // behind the @
	guid  uint64
	txg   uint64
	props *nvlist.List
}

func (f *treeFS) find(snap string) *treeSnap {
	for i := range f.snaps {
		if f.snaps[i].name == snap {
			return &f.snaps[i]
		}
	}
	return nil
}

// gatherTree collects the datasets from root down and their snapshots, up to
// "to" or all if that is empty.
func (h *Handle) gatherTree(ctx context.Context, op, root, from, to string) (*tree, error) {
	t := &tree{bySnap: map[uint64]*treeFS{}}
	heads := map[string]*treeFS{}
	skipped := map[string]bool{}
	guids := map[string]uint64{} // of snapshots, for origins
	var cur *treeFS
	finish := func() error {
		if cur == nil {
			return nil
		}
		f := cur
		cur = nil
		parent := heads[parentOf(f.name)]
		if parent != nil {
			f.parentFrom, f.toTxg = parent.from, parent.toTxg
		}
		if last := f.find(to); last != nil {
			f.toTxg = last.txg
		} else if to != "" {
			if f.toTxg != 0 && f.createTxg > f.toTxg {
				skipped[f.name] = true
				return nil
			}
			return &Error{Op: op, Name: f.name + "@" + to, Kind: ErrNotFound}
		}
		f.limit(from, to)
		for _, s := range f.snaps {
			if t.bySnap[s.guid] == nil {
				t.bySnap[s.guid] = f
			}
		}
		heads[f.name] = f
		t.order = append(t.order, f)
		return nil
	}
	for d, err := range h.Descend(ctx, root, Filesystems, Volumes, Snapshots, With()) {
		if err != nil {
			return nil, err
		}
		if d.Kind == Snapshot {
			_, snap, _ := cutSnapshot(d.Name)
			guids[d.Name] = d.GUID
			if cur != nil {
				cur.snaps = append(cur.snaps, treeSnap{snap, d.GUID, d.CreateTxg, sendable(d)})
			}
			continue
		}
		if err := finish(); err != nil {
			return nil, err
		}
		if p := parentOf(d.Name); skipped[p] {
			skipped[d.Name] = true
			continue
		}
		enc := d.Value("encryption")
		cur = &treeFS{
			name: d.Name, guid: d.GUID, kind: d.Kind, createTxg: d.CreateTxg, origin: d.Origin, props: sendable(d),
			encrypted: enc != "" && enc != "off", encRoot: d.Value("encryptionroot") == d.Name,
		}
	}
	if err := finish(); err != nil {
		return nil, err
	}
	for _, f := range t.order {
		if f.origin == "" {
			continue
		}
		if f.originGUID = guids[f.origin]; f.originGUID == 0 {
			d, err := h.get(ctx, op, f.origin, false)
			if err != nil {
				return nil, err
			}
			f.originGUID = d.GUID
		}
	}
	return t, nil
}

func parentOf(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return ""
}

// limit leaves out the snapshots after the last one that is sent, and finds what the children take for their parent's.
func (f *treeFS) limit(from, to string) {
	slices.SortFunc(f.snaps, func(a, b treeSnap) int { return cmp.Compare(a.txg, b.txg) })
	if f.toTxg != 0 {
		f.snaps = slices.DeleteFunc(f.snaps, func(s treeSnap) bool { return s.txg > f.toTxg })
	}
	for _, s := range f.snaps {
		if from != "" && s.name == from || f.from == 0 && s.name == to {
			f.from = s.guid
		}
	}
}

// sendable are the properties that are set on a dataset or snapshot itself, or came to it with a stream.
func sendable(d *Dataset) *nvlist.List {
	out := nvlist.New()
	for name, v := range d.props.All() {
		p, native := properties[name]
		if !isUser(name) && (!native || p.attr&(readOnly|once) != 0) {
			continue
		}
		limit := false
		switch name {
		case "quota", "reservation", "refquota", "refreservation":
			limit = true
		}
		if limit && d.Kind == Snapshot {
			continue
		}
		entry := v.List()
		if src, ok := nvlist.Get[string](entry, "source"); ok && src != d.Name && src != receivedMark || !ok && !limit {
			continue
		}
		value, _ := entry.Value("value")
		if s, ok := value.Str(); ok {
			// Out of the kernel's reply, which would stay in memory whole.
			nvlist.Set(out, strings.Clone(name), strings.Clone(s))
		} else if n, ok := value.Uint(); ok {
			nvlist.Set(out, strings.Clone(name), n)
		}
	}
	return out
}

// list is the tree as it stands in a stream.
func (t *tree) list() *nvlist.List {
	fss := nvlist.New()
	for _, f := range t.order {
		l := nvlist.New(nvlist.P("name", f.name), nvlist.P("parentfromsnap", f.parentFrom))
		if f.origin != "" {
			nvlist.Set(l, "origin", f.originGUID)
		}
		nvlist.Set(l, "props", f.props)
		if f.encRoot {
			nvlist.Set(l, "is_encroot", nvlist.Flag{})
		}
		snaps, props := nvlist.New(), nvlist.New()
		for _, s := range f.snaps {
			nvlist.Set(snaps, s.name, s.guid)
			nvlist.Set(props, s.name, s.props)
		}
		nvlist.Set(l, "snaps", snaps)
		nvlist.Set(l, "snapprops", props)
		nvlist.Set(fss, fmt.Sprintf("%#x", f.guid), l)
	}
	return fss
}

// readTree takes a stream's list apart. Names in it are the sender's.
func readTree(fss *nvlist.List) (*tree, error) {
	t := &tree{bySnap: map[uint64]*treeFS{}}
	for _, v := range fss.All() {
		l := v.List()
		f := &treeFS{name: l.Str("name"), props: l.List("props"), encRoot: l.Has("is_encroot")}
		f.parentFrom, _ = l.Uint("parentfromsnap")
		f.originGUID, _ = l.Uint("origin")
		if err := checkName("receive", f.name, 0); err != nil {
			return nil, streamError("its list has a dataset %.80q", f.name)
		}
		for name, g := range l.List("snaps").All() {
			guid, ok := g.Uint()
			if !ok || strings.ContainsAny(name, "/@#") {
				return nil, streamError("its list has a snapshot %.80q", name)
			}
			f.snaps = append(f.snaps, treeSnap{name: name, guid: guid, props: l.List("snapprops").List(name)})
			if t.bySnap[guid] == nil {
				t.bySnap[guid] = f
			}
		}
		t.order = append(t.order, f)
	}
	return t, nil
}
