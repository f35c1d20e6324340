// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skepvm/skep"
)

// fakeHost is a host whose machines are entries of a map.
type fakeHost struct {
	mu       sync.Mutex
	machines map[string]*fakeMachine
	fail     error // of Create
	events   chan skep.Event
}

type fakeMachine struct {
	h    *fakeHost
	mu   sync.Mutex
	st   skep.Status
	stop chan struct{} // Stop waits for it
	line *fakeLine
}

type fakeLine struct {
	io.Reader
	io.Writer
	close func() error
}

func (l *fakeLine) Close() error { return l.close() }

func newFakeHost() *fakeHost {
	return &fakeHost{machines: map[string]*fakeMachine{}, events: make(chan skep.Event)}
}

func (h *fakeHost) Create(_ context.Context, spec skep.MachineSpec) (skep.Status, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		return skep.Status{}, h.fail
	}
	if spec.Image != "debian12" {
		return skep.Status{}, fmt.Errorf("image %s: %w", spec.Image, skep.ErrNotFound)
	}
	k := spec.Namespace + "/" + spec.Name
	if h.machines[k] != nil {
		return skep.Status{}, fmt.Errorf("create %s: %w", k, skep.ErrExists)
	}
	n := byte(len(h.machines) + 2)
	m := &fakeMachine{h: h, st: skep.Status{
		ID: strings.Repeat("a", 32), Spec: spec, State: skep.StateCreating, Progress: skep.Progress{Step: skep.StepClaimed, Doing: skep.StepImage, Percent: 10},
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("x", 3600)), Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 0, n}), 24),
		User: "debian", OS: "linux", Profile: "cloud-debian-x86-12", Emulator: "kvm", MAC: []byte{2, 0, 0, 0, 0, n},
	}}
	h.machines[k] = m
	return m.st, nil
}

func (h *fakeHost) get(ns, name string) (*fakeMachine, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[ns+"/"+name]
	if m == nil {
		return nil, fmt.Errorf("machine %s/%s: %w", ns, name, skep.ErrNotFound)
	}
	return m, nil
}

func (h *fakeHost) Status(ns, name string) (skep.Status, error) {
	m, err := h.get(ns, name)
	if err != nil {
		return skep.Status{}, err
	}
	return m.Status(), nil
}

func (h *fakeHost) Do(ctx context.Context, ns, name string, op func(context.Context, machine) error) error {
	m, err := h.get(ns, name)
	if err != nil {
		return err
	}
	return op(ctx, m)
}

func (h *fakeHost) List(ns string) (out []skep.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.machines {
		if ns == "" || m.st.Spec.Namespace == ns {
			out = append(out, m.Status())
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Spec.Name < out[j].Spec.Name })
	return out
}

func (h *fakeHost) Info(context.Context) (skep.Info, error) {
	return skep.Info{Hostname: "hive", OS: "linux", Emulator: "kvm", Memory: 8 * skep.GiB, MemoryLimit: 7 * skep.GiB, MemoryCommitted: skep.GiB, DiskFree: 100 * skep.GiB, Addresses: 253, AddressesFree: 250}, nil
}

func (h *fakeHost) Images(context.Context) ([]skep.Image, error) {
	return []skep.Image{{Name: "debian12", OS: "linux", Profile: "cloud-debian-x86-12", User: "debian", MinDisk: 2 * skep.GiB, Warm: true}}, nil
}

func (h *fakeHost) WarmImage(_ context.Context, name string, progress func(done, total int64)) error {
	progress(1, 2)
	if name != "debian12" {
		return skep.ErrNotFound
	}
	return nil
}
func (h *fakeHost) RemoveImage(context.Context, string) error { return nil }
func (h *fakeHost) Flavors() []skep.Flavor                    { return skep.DefaultFlavors() }
func (h *fakeHost) Watch(ctx context.Context, _ string) iter.Seq[skep.Event] {
	return func(yield func(skep.Event) bool) {
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-h.events:
				if !yield(e) {
					return
				}
			}
		}
	}
}

func (m *fakeMachine) set(s skep.State) { m.mu.Lock(); m.st.State = s; m.mu.Unlock() }
func (m *fakeMachine) Status() skep.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.st
}
func (m *fakeMachine) Start(context.Context) error { m.set(skep.StateRunning); return nil }
func (m *fakeMachine) Stop(ctx context.Context, _ skep.StopOptions) error {
	if m.stop != nil {
		m.set(skep.StateStopping)
		select {
		case <-m.stop:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.set(skep.StateStopped)
	return nil
}
func (m *fakeMachine) Reset(context.Context) error                         { return nil }
func (m *fakeMachine) Reboot(context.Context, skep.StopOptions) error      { return nil }
func (m *fakeMachine) Pause(context.Context) error                         { m.set(skep.StatePaused); return nil }
func (m *fakeMachine) Resume(context.Context) error                        { m.set(skep.StateRunning); return nil }
func (m *fakeMachine) ConsoleLog(context.Context) ([]byte, error)          { return []byte("login: "), nil }
func (m *fakeMachine) Stats(context.Context) (skep.Stats, error)           { return skep.Stats{RSS: 7}, nil }
func (m *fakeMachine) Snapshot(_ context.Context, name string) error       { return errors.ErrUnsupported }
func (m *fakeMachine) RemoveSnapshot(context.Context, string) error        { return skep.ErrNotFound }
func (m *fakeMachine) Rollback(context.Context, string) error              { return skep.ErrBusy }
func (m *fakeMachine) Console(context.Context) (io.ReadWriteCloser, error) { return m.line, nil }
func (m *fakeMachine) Snapshots(context.Context) ([]skep.Snapshot, error) {
	return []skep.Snapshot{{Name: "a", Used: 1}}, nil
}
func (m *fakeMachine) Clone(context.Context, string, skep.MachineSpec) (*skep.Machine, error) {
	return nil, fmt.Errorf("clone: %w", skep.ErrNoSpace)
}
func (m *fakeMachine) Destroy(context.Context) error {
	m.h.mu.Lock()
	defer m.h.mu.Unlock()
	delete(m.h.machines, m.st.Spec.Namespace+"/"+m.st.Spec.Name)
	return nil
}

// rig is a Server over a fakeHost.
type rig struct {
	t    *testing.T
	h    *fakeHost
	s    *Server
	http *httptest.Server

	client *http.Client
}

func newRig(t *testing.T, opt Options) *rig {
	t.Helper()
	h := newFakeHost()
	s, err := newServer(h, opt)
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewUnstartedServer(s)
	ts.Config = s.NewHTTPServer()
	ts.Start()
	t.Cleanup(func() { s.cancel(); ts.Close(); _ = s.Close() })
	return &rig{t, h, s, ts, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
}

// do sends a request and gives the status and the decoded answer.
func (r *rig) do(method, path, cid, body string) (int, map[string]any) {
	r.t.Helper()
	q, err := http.NewRequest(method, r.http.URL+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if cid != "" {
		q.Header.Set("cid", cid)
	}
	if body != "" {
		q.Header.Set("Content-Type", "application/json")
	}
	a, err := r.client.Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	v := map[string]any{}
	if strings.Contains(a.Header.Get("Content-Type"), "json") && !bytes.HasPrefix(b, []byte("[")) {
		if err := json.Unmarshal(b, &v); err != nil {
			r.t.Fatalf("%s %s: %v in %q", method, path, err, b)
		}
	}
	v["raw"], v["content-type"], v["sniff"] = string(b), a.Header.Get("Content-Type"), a.Header.Get("X-Content-Type-Options")
	return a.StatusCode, v
}
