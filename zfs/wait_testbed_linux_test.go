// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"context"
	"errors"
	"os"
	"strings"
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

// parameter sets one of the module's, until the test ends.
func parameter(t *testing.T, name, value string) {
	t.Helper()
	path := "/sys/module/zfs/parameters/" + name
	was, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(value), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(path, was, 0) })
}

func TestRealPause(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	file := files(t, 1, 2048*mib)[0]
	p := testPool(t, h, 0, func(s *PoolSpec) { s.Data = []VdevSpec{Disk(file)} })
	status := func() *Pool {
		t.Helper()
		st, err := h.Pool(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	holdScans(t, true)
	t.Cleanup(func() { holdScans(t, false) })
	wantKind(t, "pause no scrub", p, h.ScrubPool(ctx, p, Pause), ErrNotFound)
	wantKind(t, "cancel no scrub", p, h.ScrubPool(ctx, p, Cancel), ErrNotFound)
	for _, st := range []struct {
		what   Command
		state  ScanState
		paused bool
	}{{Start, Scanning, false}, {Pause, Scanning, true}, {Start, Scanning, false}, {Cancel, ScanCanceled, false}} {
		if err := h.ScrubPool(ctx, p, st.what); err != nil {
			t.Fatal(err)
		}
		s := status()
		if s.Scan == nil || s.Scan.State != st.state || s.Scan.Paused != st.paused {
			t.Errorf("after command %d: %+v", st.what, s.Scan)
		}
		compareScan(t, s)
	}
	holdScans(t, false)

	// Small steps make a trim take its time; an initialization writes gigabytes.
	parameter(t, "zfs_trim_extent_bytes_min", "4096")
	parameter(t, "zfs_trim_extent_bytes_max", "65536")
	for _, a := range []struct {
		word, flag string
		do         func(context.Context, string, Command, ...string) error
		progress   func(*Vdev) Progress
	}{
		{"trimmed", "-t", h.TrimPool, func(v *Vdev) Progress { return v.Trim }},
		{"initialized", "-i", h.InitializePool, func(v *Vdev) Progress { return v.Initialize }},
	} {
		wantKind(t, "pause what does not run", p, a.do(ctx, p, Pause), ErrNotFound)
		for _, st := range []struct {
			what  Command
			state uint64
			said  string
		}{{Start, 1, "started at"}, {Pause, 3, "suspended, started at"}, {Start, 1, "started at"}, {Cancel, 2, ""}} {
			if err := a.do(ctx, p, st.what, file); err != nil {
				t.Fatalf("%s, command %d: %v", a.word, st.what, err)
			}
			pr := a.progress(status().Root.Children[0])
			if pr.State != st.state || pr.Active() != (st.state == 1) {
				t.Errorf("%s, after command %d: %+v", a.word, st.what, pr)
			}
			if st.said == "" {
				continue
			}
			if out := tool(t, "zpool", "status", a.flag, p); !strings.Contains(out, "% "+a.word+", "+st.said) {
				t.Errorf("%s, after command %d: zpool: %s", a.word, st.what, out)
			}
		}
		wantKind(t, "cancel what does not run", p, a.do(ctx, p, Cancel), ErrNotFound)
		wantKind(t, "a device of another", "/none", a.do(ctx, p, Start, "/none"), ErrNotFound)
	}
	comparePool(t, h, p)
}
