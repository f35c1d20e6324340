// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/skepvm/skep/zfs/internal/zcmd"
)

// DestroyOptions say how much may go with what is destroyed.
type DestroyOptions struct {
	Recursive bool // descendants and snapshots too
	Clones    bool // clones of those snapshots too, wherever they are (implies Recursive)
}

// Plan is what a destruction would take with it, in the order in which it goes.
type Plan struct {
	Name      string
	Snapshots []string // without clones: they go first, all at once
	Steps     []Step   // the rest, one by one
	Clones    []string // of Steps: datasets outside of Name's tree, clones of its snapshots
}

// Step destroys one dataset, or one snapshot whose clones the steps before it have destroyed.
type Step struct {
	Name string
	Kind Kind
}

// PlanDestroy works out what destroying a dataset or snapshot takes. What
// stands in the way and may not go is ErrHasSnapshots, ErrHasChildren or
// ErrHasClones, with its names. Nothing is changed.
func (h *Handle) PlanDestroy(ctx context.Context, name string, o DestroyOptions) (*Plan, error) {
	const op = "destroy"
	o.Recursive = o.Recursive || o.Clones
	if err := checkAny(op, name); err != nil {
		return nil, err
	}
	d, err := h.get(ctx, op, name, false)
	if err != nil {
		return nil, err
	}
	p := &planner{h: h, ctx: ctx, o: o, plan: &Plan{Name: name}, seen: map[string]bool{}}
	p.root = name
	if d.Kind == Snapshot {
		p.root, _, _ = cutSnapshot(name)
		if o.Recursive {
			err = p.snapshotTree(name)
		} else {
			err = p.snapshot(name)
		}
	} else {
		err = p.dataset(d)
	}
	if err != nil {
		return nil, err
	}
	if len(p.blocking) > 0 {
		return nil, &Error{Op: op, Name: name, Kind: p.why, Hint: abbreviate(p.blocking)}
	}
	return p.plan, nil
}

func abbreviate(names []string) string {
	const shown = 10
	if len(names) > shown {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
	}
	return strings.Join(names, ", ")
}

type planner struct {
	h        *Handle
	ctx      context.Context
	o        DestroyOptions
	plan     *Plan
	root     string
	seen     map[string]bool
	blocking []string
	why      error
}

func (p *planner) block(why error, names ...string) {
	if p.why == nil || p.why == why {
		p.why = why
		p.blocking = append(p.blocking, names...)
	}
}

func (p *planner) outside(name string) bool {
	return name != p.root && !strings.HasPrefix(name, p.root+"/")
}

// dataset plans a file system or volume: what depends on it first.
func (p *planner) dataset(d *Dataset) error {
	if p.seen[d.Name] {
		return nil
	}
	p.seen[d.Name] = true
	var snaps []string
	for s, err := range p.h.Snapshots(p.ctx, d.Name, NamesOnly) {
		if err != nil {
			return err
		}
		snaps = append(snaps, s.Name)
	}
	if len(snaps) > 0 && !p.o.Recursive {
		p.block(ErrHasSnapshots, snaps...)
		return nil
	}
	for c, err := range p.h.Descend(p.ctx, d.Name, Depth(1)) {
		if err != nil {
			return err
		}
		if c.Name == d.Name {
			continue
		}
		if !p.o.Recursive {
			p.block(ErrHasChildren, c.Name)
			continue
		}
		if err := p.dataset(c); err != nil {
			return err
		}
	}
	for _, s := range snaps {
		if err := p.snapshot(s); err != nil {
			return err
		}
	}
	p.plan.Steps = append(p.plan.Steps, Step{d.Name, d.Kind})
	if p.outside(d.Name) {
		p.plan.Clones = append(p.plan.Clones, d.Name)
	}
	return nil
}

func (p *planner) snapshot(name string) error {
	clones, err := p.h.Clones(p.ctx, name)
	if err != nil {
		return err
	}
	if len(clones) == 0 {
		p.plan.Snapshots = append(p.plan.Snapshots, name)
		return nil
	}
	for _, c := range clones {
		if p.seen[c] {
			continue
		}
		// A clone within the tree goes anyway, if the tree does.
		if !p.o.Clones && (p.outside(c) || p.plan.Name != p.root) {
			p.block(ErrHasClones, c)
			continue
		}
		d, err := p.h.get(p.ctx, "destroy", c, false)
		if err != nil {
			return err
		}
		if err := p.dataset(d); err != nil {
			return err
		}
	}
	p.plan.Steps = append(p.plan.Steps, Step{name, Snapshot})
	return nil
}

// snapshotTree plans the snapshots of one name on a dataset and all below it.
func (p *planner) snapshotTree(name string) error {
	fs, snap, _ := cutSnapshot(name)
	for d, err := range p.h.Descend(p.ctx, fs, NamesOnly) {
		if err != nil {
			return err
		}
		s := d.Name + "@" + snap
		if there, err := p.h.Exists(p.ctx, s); err != nil {
			return err
		} else if there {
			if err := p.snapshot(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// Clones gives the names of the clones of a snapshot.
func (h *Handle) Clones(ctx context.Context, snapshot string) ([]string, error) {
	d, err := h.get(ctx, "get", snapshot, false)
	if err != nil || d.Clones == 0 {
		return nil, err
	}
	if d, err = h.get(ctx, "get", snapshot, true); err != nil {
		return nil, err
	}
	var out []string
	for c := range d.props.List("clones").List("value").All() {
		out = append(out, strings.Clone(c))
	}
	slices.Sort(out)
	return out, nil
}

// batch is how many snapshots one request destroys: all of them hold up the same
// transaction group. A channel program would save nothing here.
const batch = 5000

// Execute carries out a plan: file systems are unmounted first, and one that is
// in use fails it before anything is destroyed.
func (h *Handle) Execute(ctx context.Context, p *Plan) error {
	var fs []string
	for _, s := range p.Steps {
		if s.Kind == Filesystem {
			fs = append(fs, s.Name)
		}
	}
	if err := h.unmountAll(ctx, fs); err != nil {
		return err
	}
	for chunk := range slices.Chunk(p.Snapshots, batch) {
		if err := h.DestroySnapshots(ctx, chunk, false); err != nil {
			return err
		}
	}
	for _, s := range p.Steps {
		if s.Kind == Snapshot {
			if err := h.DestroySnapshots(ctx, []string{s.Name}, false); err != nil {
				return err
			}
			continue
		}
		if err := h.destroyHead(ctx, s.Name); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handle) destroyHead(ctx context.Context, name string) error {
	const op = "destroy"
	if err := checkName(op, name, 0); err != nil {
		return err
	}
	r := h.dev.Request(name)
	defer r.Release()
	r.Cmd.ObjsetType = objsetFilesystem
	return fail(op, zcmd.Destroy, name, r.DoOnce(ctx, zcmd.Destroy))
}

// Destroy destroys a dataset or snapshot, and with the options what depends on
// it, as PlanDestroy has it.
func (h *Handle) Destroy(ctx context.Context, name string, o DestroyOptions) error {
	p, err := h.PlanDestroy(ctx, name, o)
	if err != nil {
		return err
	}
	return h.Execute(ctx, p)
}

// AbortReceive destroys the remains of a resumable receive into a dataset.
func (h *Handle) AbortReceive(ctx context.Context, name string) error {
	const op = "receive -A"
	if err := checkName(op, name, 0); err != nil {
		return err
	}
	r := h.dev.Request(name + "/%recv")
	defer r.Release()
	err := r.DoOnce(ctx, zcmd.Destroy)
	if err == nil {
		return nil
	}
	if !isKind(fail(op, zcmd.Destroy, name, err), ErrNotFound) {
		return fail(op, zcmd.Destroy, name, err)
	}
	// A first receive has no target to hang below: its remains are the dataset itself.
	d, gerr := h.get(ctx, op, name, true)
	if gerr != nil {
		return gerr
	}
	if !d.Inconsistent {
		return &Error{Op: op, Name: name, Kind: ErrNotFound, Hint: "no interrupted receive"}
	}
	return h.destroyHead(ctx, name)
}
