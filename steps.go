// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"fmt"
)

// step is one stage of an operation. undo takes back what do did, in full or in
// part, or did not do at all: recovery after a crash runs it without knowing
// how far do had come. Both take what they need from the machine's record.
type step struct {
	name string
	do   func(ctx context.Context) error
	undo func(ctx context.Context) error // nil: nothing to take back
}

// run does the steps in order. When one fails, it and those before it are
// undone, the last first, whatever has become of ctx.
func (h *Host) run(ctx context.Context, steps []step) error {
	for i, s := range steps {
		h.fault("before " + s.name)
		err := context.Cause(ctx)
		if err == nil {
			err = because(ctx, s.do(ctx))
		}
		h.fault("after " + s.name)
		if err != nil {
			err = fmt.Errorf("%s: %w", s.name, err)
			return errors.Join(err, h.undo(context.WithoutCancel(ctx), steps[:i+1]))
		}
	}
	return nil
}

// undo undoes steps, the last first; what cannot be undone does not keep it
// from the rest.
func (h *Host) undo(ctx context.Context, steps []step) error {
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		s := steps[i]
		if s.undo == nil {
			continue
		}
		h.fault("before undoing " + s.name)
		if err := s.undo(ctx); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", s.name, err))
		}
		h.fault("after undoing " + s.name)
	}
	return errors.Join(errs...)
}
