// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

// holdScans keeps scrubs from going on, or lets them.
func holdScans(t *testing.T, hold bool) {
	t.Helper()
	value := map[bool]string{true: "1", false: "0"}[hold]
	if err := os.WriteFile("/sys/module/zfs/parameters/zfs_scan_suspend_progress", []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

func TestRealWait(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 128*mib)
	all := Scanned | Trimmed | Initialized | Removed | Freed
	start := time.Now()
	if err := h.WaitPool(ctx, p, all, nil); err != nil {
		t.Error(err)
	}
	t.Log("nothing to wait for:", time.Since(start))
	if err := h.WaitPool(ctx, "nopool", all, nil); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	holdScans(t, true)
	t.Cleanup(func() { holdScans(t, false) })
	if err := h.ScrubPool(ctx, p, Start); err != nil {
		t.Fatal(err)
	}
	held, err := h.Pool(ctx, p)
	if err != nil || !held.Scan.Active() || held.Scan.Paused || held.Scan.ToExamine == 0 || time.Since(held.Scan.Start) > time.Minute {
		t.Errorf("%+v %v", held.Scan, err)
	}
	compareScan(t, held)
	// Ended by the context, while the kernel sleeps.
	wctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	start = time.Now()
	if err := h.WaitPool(wctx, p, all, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("the deadline was heard after %v", d)
	}
	// Ended by the end of the scrub.
	statuses := 0
	done := make(chan error, 1)
	go func() { done <- h.WaitPool(ctx, p, Scanned, func(*Pool) { statuses++ }) }()
	select {
	case err := <-done:
		t.Fatal("ended before the scrub did", err)
	case <-time.After(3 * time.Second):
	}
	holdScans(t, false)
	start = time.Now()
	if err := <-done; err != nil {
		t.Error(err)
	}
	t.Log("the end was heard after", time.Since(start))
	if st, err := h.Pool(ctx, p); err != nil || st.Scan.State != ScanFinished || statuses < 3 {
		t.Error(st.Scan, statuses, err)
	} else {
		compareScan(t, st)
	}
	// Ended by the end of the pool.
	holdScans(t, true)
	if err := h.ScrubPool(ctx, p, Start); err != nil {
		t.Fatal(err)
	}
	go func() { done <- h.WaitPool(ctx, p, Scanned, nil) }()
	time.Sleep(time.Second)
	if err := h.DestroyPool(ctx, p); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
