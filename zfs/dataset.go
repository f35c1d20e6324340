// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// Dataset is a file system, volume, snapshot or bookmark as it was when it was asked for.
type Dataset struct {
	Name         string
	Kind         Kind
	GUID         uint64 // 0 where only names were asked for
	CreateTxg    uint64
	Origin       string // of a clone: the snapshot that it is from
	Clones       uint64 // of a snapshot: how many clones it has
	Inconsistent bool   // the remains of a receive that was cut

	bare    bool // the kernel said that it has no snapshots
	props   *nvlist.List
	asked   []string // the properties that were asked for; nil for all
	version Version  // of the module, for what it takes as the default
	head    Kind     // of the dataset; of a snapshot, that of what it is of
	mounted string   // yes, no, or "" where it was not asked for
	options string   // of the mount
	altroot string   // of the pool
}

// Property gives a property of the dataset: one that is set, one that the
// kernel computes, or the default of a native one. It is false for a property
// that does not apply or was not asked for.
func (d *Dataset) Property(name string) (Property, bool) {
	if full, ok := aliases[name]; ok {
		name = full
	}
	switch name {
	case "name":
		return Property{Name: name, Value: d.Name}, true
	case "type":
		return Property{Name: name, Value: d.Kind.String()}, true
	case "origin":
		return Property{Name: name, Value: d.Origin}, d.Origin != ""
	}
	p, native := properties[name]
	if native && !d.applies(p) || d.asked != nil && !slices.Contains(d.asked, name) {
		return Property{}, false
	}
	if name == "mounted" {
		return Property{Name: name, Value: d.mounted, Number: map[bool]uint64{true: 1, false: 0}[d.mounted == "yes"]}, d.mounted != ""
	}
	out, ok := d.property(name, p, native)
	return d.temporary(out), ok
}

// applies reports whether the module knows the property of such a dataset.
func (d *Dataset) applies(p property) bool {
	if p.kinds&d.Kind == 0 || p.since > 0 && !d.version.AtLeast(2, p.since) ||
		d.Kind == Volume && p.onVol > 0 && !d.version.AtLeast(2, p.onVol) {
		return false
	}
	// What a snapshot has by its dataset it has only if that may have it. Strings are not looked at so closely.
	return d.Kind != Snapshot || p.typ == propString || p.kinds == Snapshot || d.head == 0 || p.kinds&d.head != 0
}

func (d *Dataset) property(name string, p property, native bool) (Property, bool) {
	entry := d.props.List(name)
	v, ok := entry.Value("value")
	if !ok {
		if !native || d.props == nil {
			return Property{}, false
		}
		out, ok := p.defaultProperty(name, d.version)
		if name == "mountpoint" {
			out.Value = d.underRoot(out.Value + d.Name)
		}
		return out, ok
	}
	out := Property{Name: name}
	out.Source, out.From = sourceOf(entry, d.Name)
	if s, ok := v.Str(); ok {
		out.Value = s
		if name == "mountpoint" {
			out.Value = d.mountpoint(s, out)
		}
		return out, s != "" || !native
	}
	switch name {
	case "clones":
		out.Value = joinNames(v.List())
		return out, out.Value != ""
	case "redact_snaps":
		guids, ok := nvlist.As[[]uint64](v)
		out.Value = strings.Trim(strings.Join(strings.Fields(fmt.Sprint(guids)), ","), "[]")
		if len(guids) == 0 {
			out.Value = "none"
		}
		return out, ok
	}
	out.Number, ok = v.Uint()
	out.Value = p.show(name, out.Number)
	if name == "xattr" && out.Number == xattrDir && !d.version.AtLeast(2, 4) {
		out.Value = "on" // what it meant before sa took the word over
	}
	switch name {
	case "volsize", "quota", "refquota", "reservation", "refreservation":
		if out.Source == SourceNone {
			out.Source = SourceLocal
			if out.Number == 0 {
				out.Source = SourceDefault
			}
		}
	case "filesystem_limit", "snapshot_limit", "filesystem_count", "snapshot_count":
		if out.Source == SourceNone {
			out.Source = SourceLocal
		}
	case "snapshots_changed", "snapshots_changed_nsecs":
		ok = ok && out.Number != 0
	}
	return out, ok
}

// mountpoint adds to an inherited mount point the path below where it is from.
func (d *Dataset) mountpoint(s string, p Property) string {
	if strings.HasPrefix(s, "/") && p.Source == SourceInherited {
		s = strings.TrimSuffix(s, "/") + strings.TrimPrefix(d.Name, p.From)
	}
	return d.underRoot(s)
}

// underRoot adds before a mount point the pool's alternate root.
func (d *Dataset) underRoot(s string) string {
	if d.altroot == "" || !strings.HasPrefix(s, "/") {
		return s
	}
	if s == "/" {
		return d.altroot
	}
	return strings.TrimSuffix(d.altroot, "/") + s
}

// Value is the value of a property as zfs get -p prints it, "" for none.
func (d *Dataset) Value(name string) string {
	p, _ := d.Property(name)
	return p.Value
}

// Number is the number of a property, 0 for none.
func (d *Dataset) Number(name string) uint64 {
	p, _ := d.Property(name)
	return p.Number
}

// Properties walks the native and user properties that apply, by name.
func (d *Dataset) Properties() iter.Seq[Property] {
	return func(yield func(Property) bool) {
		all := map[string]bool{}
		for name := range d.props.All() {
			if _, native := properties[name]; native || isUser(name) {
				all[name] = true
			}
		}
		for name := range properties {
			all[name] = true
		}
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if p, ok := d.Property(name); ok && !yield(p) {
				return
			}
		}
	}
}

// User gives the user properties that stand on the dataset, inherited ones included.
func (d *Dataset) User() Props {
	out := Props{}
	for name, v := range d.props.All() {
		if isUser(name) {
			out[name] = v.List().Str("value")
		}
	}
	return out
}

// known is the module's version, or the newest if it does not say.
func (h *Handle) known() Version {
	v, err := h.version()
	if err != nil {
		return Version{Major: 2, Minor: 99}
	}
	return v
}

func (h *Handle) isOld() bool { return !h.known().AtLeast(2, 2) }

// fromCmd makes a Dataset of what the kernel put into a request.
func (h *Handle) fromCmd(c *zcmd.Cmd, props *nvlist.List) *Dataset {
	s := &c.ObjsetStats
	d := &Dataset{
		Name: zcmd.String(c.Name[:]), GUID: s.GUID, CreateTxg: s.CreationTxg, Origin: zcmd.String(s.Origin[:]),
		Inconsistent: s.Inconsistent != 0, props: props, version: h.known(),
	}
	switch s.Type {
	case objsetFilesystem:
		d.head = Filesystem
	case objsetVolume:
		d.head = Volume
	}
	switch {
	case strings.Contains(d.Name, "@"):
		d.Kind, d.Clones = Snapshot, s.NumClones
	case s.Type == objsetVolume:
		d.Kind = Volume
	default:
		d.Kind = Filesystem
	}
	return d
}

const xattrDir = 1 // ZFS_XATTR_DIR

// dmu_objset_type_t
const (
	objsetFilesystem = 2
	objsetVolume     = 3
)

// Get gives a file system, volume, snapshot or bookmark with these of its
// properties, or with all of them, as zfs get has them. Those that a mount or
// the file system itself tells (mounted, version, utf8only, …) take requests of
// their own, which naming others saves.
func (h *Handle) Get(ctx context.Context, name string, props ...string) (*Dataset, error) {
	const op = "get"
	q := newQuery([]Option{With(props...)})
	d, err := h.get(ctx, op, name, true)
	if err != nil || d.Kind == Bookmark {
		return d, err
	}
	x, err := h.extras(ctx, op, name, q)
	if err != nil {
		return nil, err
	}
	h.add(ctx, x, d)
	q.keep(d)
	return d, nil
}

// ReceivedProperties gives the properties that came with a stream, by name, also
// those whose value here is another by now; none for what was not received with any.
func (h *Handle) ReceivedProperties(ctx context.Context, name string) ([]Property, error) {
	const op = "get"
	d, err := h.get(ctx, op, name, false)
	if err != nil || d.Kind == Bookmark {
		return nil, err
	}
	r := h.dev.Request(name)
	defer r.Release()
	if err := r.Do(ctx, zcmd.ObjsetRecvd); errors.Is(err, syscall.ENOTSUP) {
		return nil, nil
	} else if err != nil {
		return nil, fail(op, zcmd.ObjsetRecvd, name, err)
	}
	if d.props, err = r.Reply(); err != nil {
		return nil, &Error{Op: op, Name: name, Err: err}
	}
	var out []Property
	for prop := range d.props.All() {
		if p, ok := d.Property(prop); ok {
			p.Source, p.From = SourceReceived, ""
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b Property) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Stat is Get without the properties, and cheaper.
func (h *Handle) Stat(ctx context.Context, name string) (*Dataset, error) {
	return h.get(ctx, "get", name, false)
}

func (h *Handle) get(ctx context.Context, op, name string, props bool) (*Dataset, error) {
	if strings.Contains(name, "#") {
		return h.getBookmark(ctx, op, name)
	}
	if err := checkAny(op, name); err != nil {
		return nil, err
	}
	r := h.dev.Request(name)
	defer r.Release()
	var err error
	if props {
		err = r.Do(ctx, zcmd.ObjsetStatsOp)
	} else {
		err = r.DoOnce(ctx, zcmd.ObjsetStatsOp)
	}
	if err != nil {
		return nil, fail(op, zcmd.ObjsetStatsOp, name, err)
	}
	l, err := r.Reply()
	if err != nil {
		return nil, &Error{Op: op, Name: name, Err: err}
	}
	d := h.fromCmd(&r.Cmd, l)
	d.Name = name
	return d, nil
}

// Exists reports whether a dataset or snapshot of that name is there.
func (h *Handle) Exists(ctx context.Context, name string) (bool, error) {
	_, err := h.Stat(ctx, name)
	if isKind(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// CreateFilesystem creates a file system; it is not mounted by it.
func (h *Handle) CreateFilesystem(ctx context.Context, name string, props Props) error {
	return h.create(ctx, name, Filesystem, objsetFilesystem, props, nil)
}

// Set sets properties of a file system, volume or snapshot (user properties only), all in one request.
func (h *Handle) Set(ctx context.Context, name string, props Props) error {
	const op = "set"
	if err := checkAny(op, name); err != nil || len(props) == 0 {
		return err
	}
	l, err := encodeProps(op, name, 0, props, false)
	if err != nil {
		return err
	}
	return h.setList(ctx, op, name, l)
}

func (h *Handle) setList(ctx context.Context, op, name string, l *nvlist.List) error {
	r := h.dev.Request(name)
	defer r.Release()
	if err := r.SetInput(l); err != nil {
		return &Error{Op: op, Name: name, Kind: ErrInvalid, Err: err}
	}
	err := r.Do(ctx, zcmd.SetProp)
	if err == nil {
		return nil
	}
	out, _ := r.Reply()
	for prop, v := range out.All() {
		if n, ok := v.Int(); ok && n > 0 {
			s, _ := l.Value(prop)
			return hint(fail(op, zcmd.SetProp, name, syscall.Errno(n)), nil, strings.Trim(nvlist.New(nvlist.Pair{Name: prop, Value: s}).String(), "{}"))
		}
	}
	return fail(op, zcmd.SetProp, name, err)
}

// Inherit clears a property, so that the value of the parent or the default
// stands; with received, the value that came with a stream.
func (h *Handle) Inherit(ctx context.Context, name, prop string, received bool) error {
	const op = "inherit"
	if err := checkAny(op, name); err != nil {
		return err
	}
	if full, ok := aliases[prop]; ok {
		prop = full
	}
	if p, ok := properties[prop]; !isUser(prop) && (!ok || p.attr&readOnly != 0) || len(prop) > MaxName {
		return propError(op, name, prop, "", "no such property, or it is read-only")
	}
	r := h.dev.Request(name)
	defer r.Release()
	zcmd.SetString(r.Cmd.Value[:], prop)
	if received {
		r.Cmd.Cookie = 1
	}
	return fail(op, zcmd.InheritProp, name, r.DoOnce(ctx, zcmd.InheritProp))
}

// Rename renames a dataset within its pool, or a snapshot within its dataset.
// recursive renames the snapshots of that name on all descendants as well. A
// mounted file system must be unmounted before and mounted after.
func (h *Handle) Rename(ctx context.Context, from, to string, recursive bool) error {
	const op = "rename"
	if err := checkAny(op, from); err != nil {
		return err
	}
	if err := checkAny(op, to); err != nil {
		return err
	}
	if recursive && !strings.Contains(from, "@") {
		return &Error{Op: op, Name: from, Kind: ErrInvalid, Hint: "only snapshots are renamed recursively"}
	}
	r := h.dev.Request(from)
	defer r.Release()
	zcmd.SetString(r.Cmd.Value[:], to)
	if recursive {
		r.Cmd.Cookie = 1
	}
	return hint(fail(op, zcmd.Rename, from, r.DoOnce(ctx, zcmd.Rename)), nil, "to "+to)
}

// Promote makes a clone the owner of the snapshots that it was made from.
func (h *Handle) Promote(ctx context.Context, name string) error {
	const op = "promote"
	if err := checkName(op, name, 0); err != nil {
		return err
	}
	r := h.dev.Request(name)
	defer r.Release()
	err := r.DoOnce(ctx, zcmd.Promote)
	conflict := zcmd.String(r.Cmd.String[:])
	err = fail(op, zcmd.Promote, name, err)
	if isKind(err, ErrExists) && conflict != "" {
		return hint(err, nil, "both have a snapshot "+conflict)
	}
	if isKind(err, ErrInvalid) {
		return hint(err, nil, "not a clone")
	}
	return err
}
