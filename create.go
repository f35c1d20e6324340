// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"
)

// errUnmade is why a Create failed whose machine was destroyed meanwhile.
var errUnmade = errors.New("destroyed while it was being created")

// Create claims the name, the address and room, and answers; the rest goes on
// in the background, where Machine.Progress and Machine.Wait follow it. A
// Create that fails undoes what it did, and its name is free again. It answers
// ErrExists, ErrInvalid, ErrNotFound (no such image) or ErrNoSpace, with
// nothing made.
func (h *Host) Create(ctx context.Context, spec MachineSpec) (*Machine, error) {
	if err := spec.Validate(); err != nil {
		return nil, fmt.Errorf("create machine: %w", err)
	}
	spec = spec.withDefaults()
	img, err := h.images.find(spec.Image)
	if err != nil {
		return nil, fmt.Errorf("create machine %s/%s: %w", spec.Namespace, spec.Name, err)
	}
	if spec.Disk == 0 {
		spec.Disk = max(img.MinDisk, defaultDisk)
	}
	if spec.Disk < img.MinDisk {
		return nil, fmt.Errorf("create machine: %w", invalid("Disk", FormatSize(spec.Disk), "image %s needs %s", img.Name, people(img.MinDisk)))
	}
	if spec.Memory < img.MinMemory {
		return nil, fmt.Errorf("create machine: %w", invalid("Memory", FormatSize(spec.Memory), "image %s needs %s", img.Name, people(img.MinMemory)))
	}
	r := &record{Image: imageRef{Name: img.Name, OS: img.OS, Profile: img.Profile, User: img.User}}
	return h.create(ctx, spec, r)
}

// create makes a machine of a checked specification; r says what it is made of.
func (h *Host) create(ctx context.Context, spec MachineSpec, r *record) (*Machine, error) {
	spec.Disk = (spec.Disk + MiB - 1) / MiB * MiB
	if spec.CPUs > h.cfg.Limits.CPUs {
		return nil, fmt.Errorf("create machine: %w", invalid("CPUs", fmt.Sprint(spec.CPUs), "this host gives at most %d", h.cfg.Limits.CPUs))
	}
	r.Version, r.ID, r.Spec, r.State, r.Created = recordVersion, newID(), spec, StateCreating, time.Now().UTC()
	m := h.newMachine(r)
	m.op <- struct{}{} // nobody else has it yet
	if err := h.claim(m, r); err != nil {
		return nil, m.wrap("create", err)
	}
	m.advance(func(p *Progress) { p.Doing = StepClaimed })
	steps := m.createSteps()
	if err := h.run(ctx, steps[:1]); err != nil {
		m.unmade(err)
		return nil, m.wrap("create", err)
	}
	bctx, cancel := context.WithCancelCause(h.ctx)
	m.cancel = cancel
	m.advance(stepDone(StepClaimed, StepImage, 5))
	if !h.background(func() { defer cancel(nil); m.make(bctx, steps) }) {
		cancel(nil)
		err := errors.Join(ErrClosed, h.undo(context.WithoutCancel(ctx), steps[:1]))
		m.unmade(err)
		return nil, m.wrap("create", err)
	}
	return m, nil
}

// make is the part of Create that goes on in the background.
func (m *Machine) make(ctx context.Context, steps []step) {
	h := m.h
	err := h.run(ctx, steps[1:])
	if err != nil {
		err = errors.Join(err, h.undo(context.WithoutCancel(ctx), steps[:1]))
		m.unmade(err)
		return
	}
	// From here on the machine is whole: a crash leaves it, and what it was to
	// do is done by the next Open.
	next := StateStopped
	if !m.record().Spec.Stopped {
		next = StateStarting
	}
	err = m.update(ctx, func(r *record) {
		r.State, r.Source = next, nil
		if next == StateStarting {
			r.Run = h.newRun(r.ID)
		}
	})
	if err == nil && next == StateStarting {
		err = m.start(ctx)
	}
	if err != nil {
		err = errors.Join(err, m.unmake(context.WithoutCancel(ctx)))
		m.unmade(err)
		return
	}
	m.advance(func(p *Progress) { *p = Progress{Step: StepDone, Percent: 100} })
	close(m.made)
	<-m.op
}

// unmade ends a Create that failed and was undone.
func (m *Machine) unmade(err error) {
	m.h.unclaim(m)
	m.mu.Lock()
	m.gone = true
	m.failure = m.wrap("create", err)
	m.passing = ""
	m.mu.Unlock()
	m.h.rememberFailed(m)
	m.advance(func(p *Progress) { p.Error = err.Error() })
	m.tellState(StateFailed, err.Error())
	close(m.made)
	<-m.op
}

// because prefers the context's own cause to what came of it.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		return cause
	}
	return err
}

func stepDone(done, doing Step, percent int) func(*Progress) {
	return func(p *Progress) { *p = Progress{Step: done, Doing: doing, Percent: percent} }
}

// createSteps are the steps that make a machine; undone, the last first, they
// are what destroys one.
func (m *Machine) createSteps() []step {
	h := m.h
	var img warmImage
	claim := m.removal()
	claim.do = func(ctx context.Context) error { return h.store.create(ctx, m.record()) }
	return []step{claim, {
		name: "warm the image",
		do: func(ctx context.Context) (err error) {
			if m.record().Source == nil {
				img, err = h.images.warm(ctx, m.record().Spec.Image, m.warmed)
			}
			m.advance(stepDone(StepImage, StepCloned, 60))
			return err
		},
	}, {
		name: "clone the disk",
		do: func(ctx context.Context) error {
			if err := m.fillDisk(ctx, img); err != nil {
				return err
			}
			m.advance(stepDone(StepCloned, StepSeeded, 75))
			return nil
		},
		undo: func(ctx context.Context) error { return h.store.dropDisk(ctx, m.record()) },
	}, {
		name: "write the seed",
		do: func(ctx context.Context) error {
			if err := m.writeSeed(); err != nil {
				return err
			}
			m.advance(stepDone(StepSeeded, StepWired, 80))
			return nil
		},
		undo: func(ctx context.Context) error { return durable{fault: h.fault}.remove(m.file(fileSeed)) },
	}}
}

// removal takes a machine out of the store, with all that it has there.
func (m *Machine) removal() step {
	return step{
		name: "claim the name",
		undo: func(ctx context.Context) error { return m.h.store.remove(ctx, m.record()) },
	}
}

// warmed tells how far the image is, which takes Create from 5 to 60 percent.
func (m *Machine) warmed(done, total int64) {
	percent := 5
	if total > 0 {
		percent += int(float64(min(done, total)) / float64(total) * 55)
	}
	m.advance(func(p *Progress) {
		// Told by the percent, or, where nobody knows the whole, by 16 MiB.
		if percent != p.Percent || total <= 0 && done-p.Bytes >= 16*MiB {
			p.Percent, p.Bytes, p.Total = percent, done, total
		}
	})
}

// fillDisk makes the disk, of an image or of another machine.
func (m *Machine) fillDisk(ctx context.Context, img warmImage) error {
	h, r := m.h, m.record()
	if r.Source != nil {
		return m.fillFrom(ctx, r.Source)
	}
	if img.size > r.Spec.Disk {
		return invalid("Disk", FormatSize(r.Spec.Disk), "the disk of image %s has %s", r.Image.Name, people(img.size))
	}
	if img.ref.Cmdline != r.Image.Cmdline {
		if err := m.update(ctx, func(r *record) { r.Image.Cmdline = img.ref.Cmdline }); err != nil {
			return err
		}
		r = m.record()
	}
	return h.store.cloneImage(ctx, r, img)
}

func (m *Machine) file(name string) string { return filepath.Join(m.h.store.dir(m.record()), name) }

func (m *Machine) writeSeed() error {
	return durable{fault: m.h.fault}.write(m.file(fileSeed), 0o600, func(w io.Writer) error {
		return writeSeed(w, m.record(), &m.h.cfg)
	})
}
