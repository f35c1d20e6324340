// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"slices"
	"strings"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// Some properties are not in the answer that the others come with: those that
// the ZPL keeps in the file system itself, those that the table of mounts
// tells, and the alternate root that stands before a mount point. Each is read
// only where it is asked for.

// mountPoint is one place where a file system is mounted.
type mountPoint struct {
	at      string
	options string // words, with commas
	device  uint64 // what tells it from other file systems
}

// mountWords are the options of a mount that stand in for a property, in the
// words of mount(8) for on and off.
var mountWords = map[string][2]string{
	"atime": {"atime", "noatime"}, "relatime": {"relatime", "norelatime"}, "devices": {"dev", "nodev"},
	"exec": {"exec", "noexec"}, "readonly": {"ro", "rw"}, "setuid": {"suid", "nosuid"},
	"xattr": {"xattr", "noxattr"}, "nbmand": {"mand", "nomand"},
}

// extras are what one listing, or one look, reads besides.
type extras struct {
	zpl     bool
	mounted map[string][]mountPoint // nil if nobody asked
	altroot string
}

func (h *Handle) extras(ctx context.Context, op, name string, q *query) (*extras, error) {
	if !q.wantProps() {
		return nil, nil
	}
	x := &extras{zpl: q.wants(func(p string) bool { return properties[p].attr&zpl != 0 })}
	if q.wants(func(p string) bool { _, ok := mountWords[p]; return ok || p == "mounted" }) {
		var err error
		if x.mounted, err = mounts(); err != nil {
			return nil, &Error{Op: op, Name: name, Err: err}
		}
	}
	if q.wants(func(p string) bool { return p == "mountpoint" }) {
		x.altroot = h.altroot(ctx, name)
	}
	return x, nil
}

func (q *query) wants(any func(string) bool) bool {
	return q.allProps || slices.ContainsFunc(q.props, any)
}

// add puts what was read besides into d.
func (h *Handle) add(ctx context.Context, x *extras, d *Dataset) {
	if x == nil || d.props == nil {
		return
	}
	d.altroot = x.altroot
	if x.mounted != nil {
		where := x.mounted[d.Name]
		d.mounted = map[bool]string{true: "yes", false: "no"}[len(where) > 0]
		if len(where) > 0 {
			d.options = where[0].options
		}
	}
	if !x.zpl || d.Inconsistent || d.head != Filesystem {
		return
	}
	r := h.dev.Request(d.Name)
	defer r.Release()
	// As with zfs get, what cannot be read is not there: a file system may have
	// gone, be damaged, or be one that no key was loaded for.
	if r.Do(ctx, zcmd.ObjsetZplprops) != nil {
		return
	}
	l, err := r.Reply()
	if err != nil {
		return
	}
	for name, v := range l.All() {
		d.props.Set(strings.Clone(name), nvlist.Of(nvlist.New(nvlist.Pair{Name: "value", Value: v})))
	}
}

// temporary gives what a mount's options say instead of the property.
func (d *Dataset) temporary(p Property) Property {
	words, ok := mountWords[p.Name]
	if !ok || d.options == "" {
		return p
	}
	for i, word := range words {
		if on := i == 0; on != (p.Number != 0) && hasOption(d.options, word) {
			p.Number = map[bool]uint64{true: 1, false: 0}[on]
			p.Value = properties[p.Name].show(p.Name, p.Number)
			p.Source, p.From = SourceTemporary, ""
			return p
		}
	}
	return p
}

func hasOption(options, word string) bool {
	for o := range strings.SplitSeq(options, ",") {
		if o == word {
			return true
		}
	}
	return false
}

// joinNames is the value of clones.
func joinNames(l *nvlist.List) string {
	var names []string
	for n := range l.All() {
		names = append(names, n)
	}
	return strings.Join(names, ",")
}

func points(all []mountPoint) []string {
	var out []string
	for _, m := range all {
		out = append(out, m.at)
	}
	return out
}
