// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"fmt"
)

// Snapshot keeps the machine's disk as it is now, under a name: 1 to 40 of
// a-z 0-9 _ -, beginning with a letter or _. A running machine is paused for
// the moment that it takes, and the snapshot is what a power cut would have
// left.
func (m *Machine) Snapshot(ctx context.Context, name string) error {
	if !snapshotRule.MatchString(name) {
		return m.wrap("snapshot", invalid("Snapshot", name, "want 1 to 40 of a-z 0-9 _ -, beginning with a letter or _"))
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return m.wrap("snapshot", err)
	}
	defer unlock()
	return m.wrap("snapshot", m.still(ctx, func() error {
		return m.h.store.snapshot(ctx, m.record(), name)
	}))
}

// still does something while the machine's disk does not change. The machine's
// operation lock is held.
func (m *Machine) still(ctx context.Context, do func() error) error {
	if m.run() == nil || m.record().State == StatePaused {
		return do()
	}
	if err := m.hold(ctx); err != nil {
		if m.run() == nil { // it has ended meanwhile
			return do()
		}
		return fmt.Errorf("hold it: %w", err)
	}
	err := do()
	return errors.Join(err, m.letGo(ctx))
}

// Snapshots lists them, the oldest first.
func (m *Machine) Snapshots(ctx context.Context) ([]Snapshot, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, m.wrap("list snapshots of", err)
	}
	defer unlock()
	list, err := m.h.store.snapshots(ctx, m.record())
	return list, m.wrap("list snapshots of", err)
}

// RemoveSnapshot drops one.
func (m *Machine) RemoveSnapshot(ctx context.Context, name string) error {
	if !snapshotRule.MatchString(name) {
		return m.wrap("remove snapshot of", fmt.Errorf("snapshot %.64q: %w", name, ErrNotFound))
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return m.wrap("remove snapshot of", err)
	}
	defer unlock()
	return m.wrap("remove snapshot of", m.h.store.removeSnapshot(ctx, m.record(), name))
}

// Rollback puts the disk of a stopped machine back to a snapshot.
func (m *Machine) Rollback(ctx context.Context, name string) error {
	if !snapshotRule.MatchString(name) {
		return m.wrap("roll back", fmt.Errorf("snapshot %.64q: %w", name, ErrNotFound))
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return m.wrap("roll back", err)
	}
	defer unlock()
	if s := m.record().State; s != StateStopped {
		return m.wrap("roll back", fmt.Errorf("%w: it is %s", ErrBusy, s))
	}
	return m.wrap("roll back", m.h.store.rollback(ctx, m.record(), name))
}

// Clone makes a new machine from a snapshot of this one, or, if the snapshot's
// name is empty, from its disk as it is now. Of spec, Image is ignored, and
// CPUs, Memory and Disk default to this machine's. The clone has an ID, a MAC
// and an address of its own, so that cloud-init runs in it as at first boot.
func (m *Machine) Clone(ctx context.Context, snapshot string, spec MachineSpec) (*Machine, error) {
	src := m.record()
	if snapshot != "" && !snapshotRule.MatchString(snapshot) {
		return nil, m.wrap("clone", fmt.Errorf("snapshot %.64q: %w", snapshot, ErrNotFound))
	}
	spec.Image = src.Spec.Image
	if spec.CPUs == 0 {
		spec.CPUs = src.Spec.CPUs
	}
	if spec.Memory == 0 {
		spec.Memory = src.Spec.Memory
	}
	if spec.Disk == 0 {
		spec.Disk = src.Spec.Disk
	}
	if err := spec.Validate(); err != nil {
		return nil, m.wrap("clone", err)
	}
	if spec.Disk < src.Spec.Disk {
		return nil, m.wrap("clone", invalid("Disk", FormatSize(spec.Disk), "the original has %s", people(src.Spec.Disk)))
	}
	if snapshot != "" {
		if err := m.hasSnapshot(ctx, snapshot); err != nil {
			return nil, m.wrap("clone", err)
		}
	}
	r := &record{Image: src.Image, Source: &cloneSource{ID: m.id, Snapshot: snapshot}}
	c, err := m.h.create(ctx, spec.withDefaults(), r)
	return c, m.wrap("clone", err)
}

func (m *Machine) hasSnapshot(ctx context.Context, name string) error {
	list, err := m.Snapshots(ctx)
	if err != nil {
		return err
	}
	for _, s := range list {
		if s.Name == name {
			return nil
		}
	}
	return fmt.Errorf("snapshot %s: %w", name, ErrNotFound)
}

// fillFrom makes the disk of a clone.
func (m *Machine) fillFrom(ctx context.Context, from *cloneSource) error {
	src := m.h.byID(from.ID)
	if src == nil {
		return fmt.Errorf("the original: %w", ErrNotFound)
	}
	unlock, err := src.lock(ctx)
	if err != nil {
		return fmt.Errorf("the original: %w", err)
	}
	defer unlock()
	do := func() error { return m.h.store.cloneDisk(ctx, m.record(), src.record()) }
	if from.Snapshot != "" {
		return do()
	}
	return src.still(ctx, do)
}

func (h *Host) byID(id string) *Machine {
	for _, m := range h.all() {
		if m.id == id {
			return m
		}
	}
	return nil
}
