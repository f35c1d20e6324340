// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"errors"
	"testing"
)

// There are no jails, and it says so without a request to the kernel.
func TestJail(t *testing.T) {
	k, h := newKernel(t, "tank", "tank/a")
	for what, do := range map[string]func() error{
		"jail":   func() error { return h.Jail(t.Context(), "tank/a", 1) },
		"unjail": func() error { return h.Unjail(t.Context(), "tank/a", 1) },
	} {
		var e *Error
		if err := do(); !errors.Is(err, errors.ErrUnsupported) || !errors.As(err, &e) || e.Op != what || e.Name != "tank/a" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(k.calls) != 0 {
		t.Errorf("requests %v", k.calls)
	}
}
