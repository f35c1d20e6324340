// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"iter"
)

// CreateSnapshots is Handle.CreateSnapshots on a handle of its own.
func CreateSnapshots(ctx context.Context, names []string, props Props) error {
	return with(func(h *Handle) error { return h.CreateSnapshots(ctx, names, props) })
}

// Clone is Handle.Clone on a handle of its own.
func Clone(ctx context.Context, snapshot, name string, props Props) error {
	return with(func(h *Handle) error { return h.Clone(ctx, snapshot, name, props) })
}

// Destroy is Handle.Destroy on a handle of its own.
func Destroy(ctx context.Context, name string, o DestroyOptions) error {
	return with(func(h *Handle) error { return h.Destroy(ctx, name, o) })
}

// Get is Handle.Get on a handle of its own.
func Get(ctx context.Context, name string, props ...string) (d *Dataset, err error) {
	err = with(func(h *Handle) error { d, err = h.Get(ctx, name, props...); return err })
	return d, err
}

// Set is Handle.Set on a handle of its own.
func Set(ctx context.Context, name string, props Props) error {
	return with(func(h *Handle) error { return h.Set(ctx, name, props) })
}

// Descend is Handle.Descend on a handle of its own, which lasts as long as the walk.
func Descend(ctx context.Context, root string, opts ...Option) iter.Seq2[*Dataset, error] {
	return func(yield func(*Dataset, error) bool) {
		err := with(func(h *Handle) error {
			for d, err := range h.Descend(ctx, root, opts...) {
				if !yield(d, err) || err != nil {
					yield = nil
					return nil
				}
			}
			return nil
		})
		if err != nil && yield != nil {
			yield(nil, err)
		}
	}
}
