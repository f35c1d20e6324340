// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// Candidate is a pool that can be imported.
type Candidate struct {
	Name     string
	GUID     uint64
	State    LabelState
	Hostname string // that last had it
	Health   string
	Config   *nvlist.List // as the kernel has it after a trial
	Pool     *Pool        // its devices as they were found
}

// FindOptions say where to look for pools.
type FindOptions struct {
	Paths     []string // devices and files, and directories of such; the system's devices if empty
	Destroyed bool     // pools that were destroyed, too
}

// maxDevices bounds how many devices and files are looked at.
const maxDevices = 1 << 16

// FindPools reads the labels of devices and files and gives the pools that are
// not imported, whole or not. Nothing is written.
func (h *Handle) FindPools(ctx context.Context, o FindOptions) ([]*Candidate, error) {
	const op = "find pools"
	paths := o.Paths
	if len(paths) == 0 {
		paths = deviceDirs
	}
	found := map[uint64][]onDevice{}
	aux := map[uint64]string{} // where spares and caches are, by guid: their labels name no pool
	for _, p := range expand(paths) {
		if err := canceled(ctx, op, p); err != nil {
			return nil, err
		}
		l, err := ReadLabel(p)
		if err != nil || l == nil {
			continue
		}
		if l.State >= LabelSpare {
			aux[l.GUID] = p
			continue
		}
		found[l.PoolGUID] = append(found[l.PoolGUID], onDevice{p, l})
	}
	active, err := h.activeGUIDs(ctx)
	if err != nil {
		return nil, err
	}
	var out []*Candidate
	for guid, devs := range found {
		if active[guid] {
			continue
		}
		config, newest := assemble(guid, devs)
		if newest.State == LabelDestroyed != o.Destroyed && newest.State == LabelDestroyed {
			continue
		}
		c, err := h.tryImport(ctx, config)
		if err != nil {
			continue // what the kernel does not take for a pool is none
		}
		c.State, c.Hostname = newest.State, newest.Hostname
		nvlist.Set(c.Config, "vdev_tree", withPaths(c.Config.List("vdev_tree"), aux))
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *Candidate) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

type onDevice struct {
	path  string
	label *Label
}

// expand lists the devices and files in directories, one path for a device.
func expand(paths []string) []string {
	var out []string
	for _, p := range paths {
		fi, err := os.Stat(p)
		if err != nil {
			continue
		}
		if !fi.IsDir() {
			out = append(out, p)
			continue
		}
		entries, err := os.ReadDir(p)
		if err != nil {
			continue
		}
		for _, e := range entries {
			full := filepath.Join(p, e.Name())
			fi, err := os.Stat(full)
			if err == nil && (fi.Mode().IsRegular() && fi.Size() >= labels*labelSize || isDisk(fi)) && len(out) < maxDevices {
				out = append(out, full)
			}
		}
	}
	return out
}

func (h *Handle) activeGUIDs(ctx context.Context) (map[uint64]bool, error) {
	names, err := h.Pools(ctx)
	if err != nil {
		return nil, err
	}
	out := map[uint64]bool{}
	for _, n := range names {
		p, err := h.Pool(ctx, n)
		if isKind(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[p.GUID] = true
	}
	return out, nil
}

// assemble makes of the labels of one pool's devices the configuration that the
// kernel is asked to try: the newest label of each top-level vdev, holes and
// missing ones in their places, and the paths where the devices were found.
func assemble(guid uint64, devs []onDevice) (*nvlist.List, *Label) {
	newest := devs[0].label
	tops := map[uint64]onDevice{} // by guid of the top-level vdev
	paths := map[uint64]string{}
	for _, d := range devs {
		if d.label.Txg > newest.Txg {
			newest = d.label
		}
		top, _ := d.label.Config.Uint("top_guid")
		if t, ok := tops[top]; !ok || d.label.Txg > t.label.Txg {
			tops[top] = d
		}
		if old, ok := paths[d.label.GUID]; !ok || preferPath(d.label, d.path, old) {
			paths[d.label.GUID] = d.path
		}
	}
	config := nvlist.New()
	for _, key := range []string{"version", "pool_guid", "name", "comment", "compatibility", "state", "hostid", "hostname",
		"vdev_children", "hole_array"} {
		if v, ok := newest.Config.Value(key); ok {
			config.Set(key, v)
		}
	}
	n, _ := newest.Config.Uint("vdev_children")
	children := make([]*nvlist.List, 0)
	byID := map[uint64]*nvlist.List{}
	for _, d := range tops {
		tree := d.label.Config.List("vdev_tree")
		id, ok := tree.Uint("id")
		if ok && id < 1<<12 {
			byID[id] = withPaths(tree, paths)
			if n == 0 {
				n = id + 1
			}
		}
	}
	holes, _ := nvlist.Get[[]uint64](newest.Config, "hole_array")
	for id := range min(n, 1<<12) {
		c := byID[id]
		if c == nil {
			typ := "missing"
			if slices.Contains(holes, id) {
				typ = "hole"
			}
			c = nvlist.New(nvlist.P("type", typ), nvlist.P("id", id), nvlist.P("guid", uint64(0)))
		}
		children = append(children, c)
	}
	nvlist.Set(config, "vdev_tree", nvlist.New(nvlist.P("type", "root"), nvlist.P("id", uint64(0)), nvlist.P("guid", guid),
		nvlist.P("children", children)))
	return config, newest
}

// preferPath prefers the path that the label itself remembers.
func preferPath(l *Label, path, old string) bool {
	want := leafPath(l.Config.List("vdev_tree"), l.GUID, 0)
	return path == want && old != want
}

func leafPath(tree *nvlist.List, guid uint64, depth int) string {
	if g, _ := tree.Uint("guid"); g == guid {
		return tree.Str("path")
	}
	if depth > 8 {
		return ""
	}
	for _, c := range tree.Lists("children") {
		if p := leafPath(c, guid, depth+1); p != "" {
			return p
		}
	}
	return ""
}

// withPaths is a copy of a vdev tree with the paths where its leaves were found.
func withPaths(tree *nvlist.List, paths map[uint64]string) *nvlist.List {
	out := nvlist.New()
	for k, v := range tree.All() {
		if k == "children" || k == "spares" || k == "l2cache" {
			var children []*nvlist.List
			for _, c := range v.Lists() {
				children = append(children, withPaths(c, paths))
			}
			v = nvlist.Of(children)
		}
		out.Set(k, v)
	}
	guid, _ := tree.Uint("guid")
	if p, ok := paths[guid]; ok && !tree.Has("children") {
		nvlist.Set(out, "path", p)
	}
	return out
}

func (h *Handle) tryImport(ctx context.Context, config *nvlist.List) (*Candidate, error) {
	name := config.Str("name")
	r := h.dev.Request(name)
	defer r.Release()
	if err := r.SetConfig(config); err != nil {
		return nil, &Error{Op: "find pools", Name: name, Kind: ErrInvalid, Err: err}
	}
	if err := r.Do(ctx, zcmd.PoolTryimport); err != nil {
		return nil, fail("find pools", zcmd.PoolTryimport, name, err)
	}
	l, err := r.Reply()
	if err != nil {
		return nil, &Error{Op: "find pools", Name: name, Err: err}
	}
	p, err := parsePool(l)
	if err != nil {
		return nil, &Error{Op: "find pools", Name: name, Err: err}
	}
	return &Candidate{Name: p.Name, GUID: p.GUID, Hostname: p.Hostname, Health: p.Health, Config: l, Pool: p}, nil
}

// ReadCacheFile gives the pools that a cache file knows (zpool.cache) and that
// are not imported.
func (h *Handle) ReadCacheFile(ctx context.Context, path string) ([]*Candidate, error) {
	const op, limit = "read cache file", 64 << 20
	if fi, err := os.Stat(path); err != nil || fi.Size() > limit {
		return nil, &Error{Op: op, Name: path, Kind: ErrInvalid, Err: err}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, &Error{Op: op, Name: path, Err: err}
	}
	all, err := nvlist.Decode(b)
	if err != nil {
		return nil, &Error{Op: op, Name: path, Kind: ErrCorrupt, Err: err}
	}
	active, err := h.activeGUIDs(ctx)
	if err != nil {
		return nil, err
	}
	var out []*Candidate
	var errs []error
	for name, v := range all.All() {
		config := v.List()
		if guid, _ := config.Uint("pool_guid"); config == nil || active[guid] {
			continue
		}
		c, err := h.tryImport(ctx, config)
		if err != nil {
			errs = append(errs, hint(err, nil, name))
			continue
		}
		out = append(out, c)
	}
	return out, errors.Join(errs...)
}

// ImportOptions are how a pool is imported.
type ImportOptions struct {
	Name      string // a new name, "" to keep it
	Props     Props  // altroot, cachefile, readonly, …
	Force     bool   // though it seems to be in use by another host
	MissedLog bool   // though a log device is missing
	NoMMP     bool   // do not look whether another host has it
}

// The flags of POOL_IMPORT (ZFS_IMPORT_*).
const (
	importAnyHost    = 0x2
	importMissingLog = 0x4
	importSkipMMP    = 0x20
)

// Import imports a pool that FindPools or ReadCacheFile found. Nothing is mounted by it.
func (h *Handle) Import(ctx context.Context, c *Candidate, o ImportOptions) error {
	const op = "import"
	name := c.Name
	if o.Name != "" {
		if err := checkNewPool(op, o.Name); err != nil {
			return err
		}
		name = o.Name
	}
	if err := checkNewOrOld(op, name); err != nil {
		return err
	}
	props, err := encodePoolProps(op, name, o.Props, true)
	if err != nil {
		return err
	}
	if c.State == LabelActive && !o.Force {
		if host, _ := os.Hostname(); c.Hostname != "" && c.Hostname != host {
			return &Error{Op: op, Name: name, Kind: ErrBusy, Hint: "it was last in use by host " + c.Hostname + " and not exported"}
		}
	}
	if ro, _ := props.Uint("readonly"); ro != 1 && c.Config.Has("unsup_feat") {
		return &Error{Op: op, Name: name, Kind: ErrModuleTooOld, Hint: "features " + c.Config.List("unsup_feat").String()}
	}
	r := h.dev.Request(name)
	defer r.Release()
	r.Cmd.GUID = c.GUID
	for _, f := range []struct {
		on   bool
		flag uint64
	}{{o.Force, importAnyHost}, {o.MissedLog, importMissingLog}, {o.NoMMP, importSkipMMP}} {
		if f.on {
			r.Cmd.Cookie |= f.flag
		}
	}
	err = r.SetConfig(c.Config)
	if props.Len() > 0 && err == nil {
		err = r.SetInput(props)
	}
	if err != nil {
		return &Error{Op: op, Name: name, Kind: ErrInvalid, Err: err}
	}
	// No answer is asked for: one too large for its buffer would stand for the
	// error, and the pool be imported all the same.
	if err = fail(op, zcmd.PoolImport, name, r.DoOnce(ctx, zcmd.PoolImport)); err == nil {
		return nil
	}
	text := ""
	for v := range c.Pool.Root.All() {
		if len(v.Children) > 0 {
			continue
		}
		if _, serr := os.Stat(v.Path); v.Path != "" && serr != nil { // gone since it was found
			text += v.Path + " is gone; "
		} else if v.State != VdevOnline {
			text += fmt.Sprintf("%s is %s; ", cmp.Or(v.Path, v.Name()), v.health())
		}
	}
	return hint(err, nil, strings.TrimSuffix(text, "; "))
}
