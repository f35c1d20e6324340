// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// kernel is a small model of what the module keeps: enough to list, create,
// clone and destroy, with the errnos of the real one.
type kernel struct {
	mu    sync.Mutex
	t     *testing.T
	ds    map[string]*node // datasets and snapshots
	order []string
	txg   uint64
	held  map[string]bool
	hook  func(op zcmd.Op, name string) syscall.Errno // an errno to give instead
	// answer answers a request, if it says so.
	answer func(op zcmd.Op, c *zcmd.Cmd, dst []byte) (syscall.Errno, bool)
	calls  []zcmd.Op
	logs   []string
}

type node struct {
	typ    int32
	txg    uint64
	origin string
	props  *nvlist.List
}

func newKernel(t *testing.T, names ...string) (*kernel, *Handle) {
	k := &kernel{t: t, ds: map[string]*node{}, held: map[string]bool{}, txg: 100}
	for _, n := range names {
		name, origin, _ := strings.Cut(n, "<")
		k.add(name, objsetFilesystem, origin)
	}
	h := newHandle(zcmd.Fake(k.serve), func() (string, error) { return "2.3.2-1", nil })
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return k, h
}

func (k *kernel) add(name string, typ int32, origin string) *node {
	k.txg++
	n := &node{typ: typ, txg: k.txg, origin: origin, props: nvlist.New()}
	k.ds[name] = n
	k.order = append(k.order, name)
	return n
}

func (k *kernel) remove(name string) {
	delete(k.ds, name)
	k.order = slices.DeleteFunc(k.order, func(n string) bool { return n == name })
}

func (k *kernel) names() []string {
	out := slices.Clone(k.order)
	slices.Sort(out)
	return out
}

// below lists, in order, the children ("/") or snapshots ("@") of a dataset.
func (k *kernel) below(name, sep string) []string {
	var out []string
	for _, n := range k.order {
		if rest, ok := strings.CutPrefix(n, name+sep); ok && !strings.ContainsAny(rest, "/@") {
			out = append(out, n)
		}
	}
	return out
}

func (k *kernel) clones(snap string) *nvlist.List {
	l := nvlist.New()
	for _, n := range k.order {
		if k.ds[n].origin == snap {
			nvlist.Set(l, n, nvlist.Flag{})
		}
	}
	return l
}

func (k *kernel) stats(c *zcmd.Cmd, dst []byte, name string) syscall.Errno {
	n := k.ds[name]
	if n == nil {
		return syscall.ENOENT
	}
	c.ObjsetStats.GUID, c.ObjsetStats.CreationTxg, c.ObjsetStats.Type = n.txg*1000, n.txg, uint32(n.typ)
	zcmd.SetString(c.ObjsetStats.Origin[:], n.origin)
	clones := k.clones(name)
	c.ObjsetStats.NumClones = uint64(clones.Len())
	if dst == nil {
		return 0
	}
	l := nvlist.New()
	for p, v := range n.props.All() {
		l.Set(p, nvlist.Of(nvlist.New(nvlist.Pair{Name: "value", Value: v}, nvlist.P("source", name))))
	}
	for parent := name; ; {
		i := strings.LastIndexAny(parent, "/@")
		if i < 0 {
			break
		}
		parent = parent[:i]
		for p, v := range k.ds[parent].props.All() {
			if !l.Has(p) && (isUser(p) || properties[p].attr&inherits != 0) {
				l.Set(p, nvlist.Of(nvlist.New(nvlist.Pair{Name: "value", Value: v}, nvlist.P("source", parent))))
			}
		}
	}
	last := n.origin
	if own := k.below(name, "@"); len(own) > 0 {
		last = own[len(own)-1]
	}
	if last != "" {
		nvlist.Set(l, prevSnap, nvlist.New(nvlist.P("value", last)))
	}
	nvlist.Set(l, "used", nvlist.New(nvlist.P("value", n.txg)))
	if clones.Len() > 0 {
		nvlist.Set(l, "clones", nvlist.New(nvlist.P("value", clones)))
	}
	return zcmd.FakeReply(c, dst, l)
}

func (k *kernel) serve(op zcmd.Op, c *zcmd.Cmd, src, conf, dst []byte) syscall.Errno {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls = append(k.calls, op)
	name := zcmd.String(c.Name[:])
	if k.hook != nil {
		if e := k.hook(op, name); e != 0 {
			return e
		}
	}
	if k.answer != nil {
		if e, ok := k.answer(op, c, dst); ok {
			return e
		}
	}
	in := nvlist.New()
	if len(src) > 0 {
		var err error
		if in, err = nvlist.Decode(src); err != nil {
			k.t.Errorf("input of %#x: %v", op, err)
			return syscall.EFAULT
		}
	}
	switch op {
	case zcmd.ObjsetStatsOp:
		return k.stats(c, dst, name)
	case zcmd.DatasetListNext, zcmd.SnapshotList:
		sep := map[zcmd.Op]string{zcmd.DatasetListNext: "/", zcmd.SnapshotList: "@"}[op]
		list := k.below(name, sep)
		if c.Cookie >= uint64(len(list)) {
			return syscall.ESRCH
		}
		next := list[c.Cookie]
		c.Cookie++
		zcmd.SetString(c.Name[:], next)
		if c.Simple == 0 || op == zcmd.DatasetListNext {
			return k.stats(c, dst, next)
		}
		return k.stats(c, nil, next) // since 2.2 (dsl_dataset_fast_stat)
	case zcmd.Create:
		if k.ds[name] != nil {
			return syscall.EEXIST
		}
		if i := strings.LastIndexByte(name, '/'); i < 0 || k.ds[name[:i]] == nil {
			return syscall.ENOENT
		}
		typ, _ := nvlist.Get[int32](in, "type")
		k.setAll(k.add(name, typ, ""), in.List("props"))
	case zcmd.SetProp:
		k.setAll(k.ds[name], in)
	case zcmd.InheritProp:
		k.ds[name].props.Delete(zcmd.String(c.Value[:]))
	case zcmd.Clone:
		origin := in.Str("origin")
		if k.ds[origin] == nil {
			return syscall.ENOENT
		}
		if k.ds[name] != nil {
			return syscall.EEXIST
		}
		k.setAll(k.add(name, k.ds[origin].typ, origin), in.List("props"))
	case zcmd.Snapshot:
		return k.snapshot(c, dst, in)
	case zcmd.DestroySnaps:
		return k.destroySnaps(c, dst, in)
	case zcmd.Destroy:
		switch {
		case k.ds[name] == nil:
			return syscall.ENOENT
		case len(k.below(name, "@")) > 0:
			return syscall.EBUSY
		case len(k.below(name, "/")) > 0:
			return syscall.EEXIST
		}
		k.remove(name)
	case zcmd.GetBookmarks:
		return zcmd.FakeReply(c, dst, nvlist.New())
	case zcmd.LogHistory:
		k.logs = append(k.logs, in.Str("message"))
	default:
		return syscall.Errno(errCmdUnavail)
	}
	return 0
}

func (k *kernel) setAll(n *node, l *nvlist.List) {
	for p, v := range l.All() {
		n.props.Set(p, v)
	}
}

func (k *kernel) snapshot(c *zcmd.Cmd, dst []byte, in *nvlist.List) syscall.Errno {
	errs := nvlist.New()
	var worst syscall.Errno
	for s := range in.List("snaps").All() {
		fs, _, _ := cutSnapshot(s)
		var e syscall.Errno
		if k.ds[s] != nil {
			e = syscall.EEXIST
		} else if k.ds[fs] == nil {
			e = syscall.ENOENT
		}
		if e != 0 {
			nvlist.Set(errs, s, int32(e))
			worst = e
		}
	}
	if worst == 0 {
		for s := range in.List("snaps").All() {
			fs, _, _ := cutSnapshot(s)
			k.setAll(k.add(s, k.ds[fs].typ, ""), in.List("props"))
		}
	}
	if e := zcmd.FakeReply(c, dst, errs); e != 0 {
		return e
	}
	return worst
}

func (k *kernel) destroySnaps(c *zcmd.Cmd, dst []byte, in *nvlist.List) syscall.Errno {
	errs := nvlist.New()
	var worst syscall.Errno
	for s := range in.List("snaps").All() {
		var e syscall.Errno
		switch {
		case k.ds[s] == nil:
		case k.held[s]:
			e = syscall.EBUSY
		case k.clones(s).Len() > 0:
			e = syscall.EEXIST
		}
		if e != 0 {
			nvlist.Set(errs, s, int32(e))
			worst = e
		}
	}
	if worst == 0 {
		for s := range in.List("snaps").All() {
			if k.ds[s] != nil {
				k.remove(s)
			}
		}
	}
	if e := zcmd.FakeReply(c, dst, errs); e != 0 {
		return e
	}
	return worst
}
