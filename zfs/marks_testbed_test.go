// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"errors"
	"strings"
	"testing"
)

// Of several snapshots one is missing: none is held, all others are released.
func TestRealHoldMissing(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 64*mib)
	if err := errors.Join(h.CreateSnapshots(ctx, []string{p + "@a"}, nil), h.CreateSnapshots(ctx, []string{p + "@b"}, nil)); err != nil {
		t.Fatal(err)
	}
	held := func() string {
		t.Helper()
		list := ""
		for _, snap := range []string{"@a", "@b"} {
			tags, err := h.Holds(ctx, p+snap)
			if err != nil {
				t.Fatal(err)
			}
			for tag := range tags {
				list += snap + tag
			}
		}
		return list
	}
	some := []string{p + "@a", p + "@gone", p + "@b"}
	for _, untilClose := range []bool{false, true} {
		if err := h.Hold(ctx, "x", some, untilClose); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), p+"@gone") || held() != "" {
			t.Errorf("%v; held %s", err, held())
		}
		if err := h.Hold(ctx, "x", []string{p + "@gone"}, untilClose); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if err := h.Hold(ctx, "x", []string{p + "@a"}, untilClose); err != nil {
			t.Fatal(err)
		}
		if err := h.Hold(ctx, "x", some, untilClose); !errors.Is(err, ErrExists) || held() != "@ax" {
			t.Errorf("%v; held %s", err, held())
		}
		err := h.Release(ctx, "x", some)
		if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), p+"@gone") || !strings.Contains(err.Error(), p+"@b") || held() != "" {
			t.Errorf("%v; held %s", err, held())
		}
	}
}
