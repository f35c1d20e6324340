// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
)

// An incremental package tells of its sender's tree as it is now. Before its
// streams can go where they belong, and once more after it, the tree here is
// brought into that form: what was renamed or promoted there is so here, and
// with Force what was destroyed there is destroyed. Datasets are known by the
// GUIDs of their snapshots.

const (
	tempPrefix = "recv-" // of the name that one has while another has its own
	maxPasses  = 1000
)

// reconcile goes over the tree until nothing is left to change. What cannot be
// done before the streams came is left for after them; then it is an error.
func (t *treeReceiver) reconcile(last bool) error {
	if ok, err := t.h.Exists(t.ctx, t.target); err != nil || !ok {
		return err
	}
	for range maxPasses {
		if err := canceled(t.ctx, t.op, t.target); err != nil {
			return err
		}
		p := &pass{treeReceiver: t}
		if err := p.run(); err != nil {
			return err
		}
		if p.left == "" && !p.progress {
			return nil
		}
		if !p.progress {
			if !last {
				return nil
			}
			return &Error{Op: t.op, Name: p.left, Kind: ErrNotInSync, Hint: "it cannot become what it is at the sender's"}
		}
	}
	return &Error{Op: t.op, Name: t.target, Kind: ErrNotInSync, Hint: "its renames do not come to an end"}
}

type pass struct {
	*treeReceiver
	local    *tree
	progress bool
	left     string // something that could not be done
}

func (p *pass) run() (err error) {
	if p.local, err = p.h.gatherTree(p.ctx, p.op, p.target, p.from, ""); err != nil {
		return err
	}
	var doomed []string
	for _, f := range p.local.order {
		sf := p.counterpart(f)
		if sf == nil {
			if p.o.Force && f.name != p.target && len(f.snaps) > 0 {
				doomed = append(doomed, f.name)
			}
			continue
		}
		if sf.originGUID != f.originGUID {
			changed, err := p.promote(f, sf)
			if changed || err != nil {
				return err
			}
			continue
		}
		if err := p.snapshots(f); err != nil {
			return err
		}
		// Names below a dataset that moved are no longer those of the list: begin again.
		if changed, err := p.move(f, sf); changed || err != nil {
			return err
		}
	}
	return p.destroy(doomed)
}

// promote makes f what it is at the sender's: the origin of what it is a clone of here.
func (p *pass) promote(f, sf *treeFS) (bool, error) {
	p.left = f.name
	if f.originGUID == 0 {
		return false, nil // another is promoted, and this becomes its clone
	}
	if sf.originGUID != 0 {
		mine, theirs := p.txg(f.originGUID), p.txg(sf.originGUID)
		if theirs <= mine {
			return false, nil
		}
	}
	if err := p.h.Promote(p.ctx, f.name); err != nil {
		return false, err
	}
	p.progress = true
	return true, nil
}

func (p *pass) txg(guid uint64) uint64 {
	if f := p.local.bySnap[guid]; f != nil {
		for _, s := range f.snaps {
			if s.guid == guid {
				return s.txg
			}
		}
	}
	return 0
}

// snapshots destroys, with Force, and renames the snapshots of a dataset, and sets the properties they have at the sender's.
func (p *pass) snapshots(f *treeFS) error {
	var gone []string
	for _, s := range f.snaps {
		full := f.name + "@" + s.name
		sf := p.stream.bySnap[s.guid]
		if sf == nil {
			if p.o.Force {
				gone = append(gone, full)
			}
			continue
		}
		i := slices.IndexFunc(sf.snaps, func(o treeSnap) bool { return o.guid == s.guid })
		if want := sf.snaps[i]; want.name != s.name {
			if err := p.rename(full, f.name+"@"+want.name, f.name+"@"); err != nil {
				return err
			}
		} else if want.props.Len() > 0 && !want.props.Equal(s.props) {
			if err := p.setReceived(full, want.props); err != nil {
				return err
			}
		}
	}
	if len(gone) == 0 {
		return nil
	}
	p.progress = true
	return p.h.DestroySnapshots(p.ctx, gone, true)
}

// move renames a dataset that has another parent or name at the sender's.
func (p *pass) move(f, sf *treeFS) (bool, error) {
	if f.name == p.target || f.find(p.from) == nil {
		return false, nil
	}
	_, tail, _ := cutLast(f.name)
	_, want, _ := cutLast(sf.name)
	moved := sf.parentFrom != 0 && f.parentFrom != 0 && sf.parentFrom != f.parentFrom
	if !moved && tail == want {
		return false, nil
	}
	to := ""
	if parent := p.local.bySnap[sf.parentFrom]; parent != nil {
		to = parent.name + "/" + want
	}
	if to == f.name {
		return false, nil
	}
	var below []string
	for _, o := range p.local.order {
		if o.kind == Filesystem && (o == f || strings.HasPrefix(o.name, f.name+"/")) {
			below = append(below, o.name)
		}
	}
	if err := p.h.unmountAll(p.ctx, below); err != nil {
		return false, err
	}
	before := p.progress
	p.progress = false
	err := p.rename(f.name, to, p.target+"/")
	changed := p.progress
	p.progress = p.progress || before
	return changed, err
}

// rename gives a name, or one of its own below dir if the name is taken or is not known yet.
func (p *pass) rename(name, to, dir string) error {
	err := error(nil)
	if to != "" && !strings.HasPrefix(to, name+"/") {
		if err = p.h.Rename(p.ctx, name, to, false); err == nil {
			p.progress = true
			return nil
		}
		if !isKind(err, ErrExists) {
			return err
		}
	}
	p.left = name
	if strings.HasPrefix(name, dir+tempPrefix) {
		return nil
	}
	var id [6]byte
	_, _ = rand.Read(id[:]) // it does not fail
	if err := p.h.Rename(p.ctx, name, fmt.Sprintf("%s%s%x", dir, tempPrefix, id), false); err != nil {
		return err
	}
	p.progress = true
	return nil
}

func cutLast(name string) (dir, last string, ok bool) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:], true
	}
	return "", name, false
}

// destroy takes away what is not at the sender's, children first. One that has
// something below it that is there stays until that has moved.
func (p *pass) destroy(doomed []string) error {
	stays := func(name string) bool {
		return slices.ContainsFunc(p.local.order, func(f *treeFS) bool {
			return strings.HasPrefix(f.name, name+"/") && !slices.Contains(doomed, f.name)
		})
	}
	for _, name := range slices.Backward(doomed) {
		if stays(name) {
			p.left = name
			continue
		}
		err := p.h.Destroy(p.ctx, name, DestroyOptions{Recursive: true})
		switch {
		case err == nil:
			p.progress = true
		case isKind(err, ErrHasClones):
			p.left = name
		default:
			return err
		}
	}
	return nil
}
