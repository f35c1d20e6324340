// SPDX-License-Identifier: BSD-2-Clause

package fakehost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/skepvm/skep"
	"github.com/skepvm/skep/internal/apihost"
)

// Host is a host whose machines are entries of a map.
type Host struct {
	Fail   error           // of Create, if not nil
	Events chan skep.Event // what Watch gives

	mu       sync.Mutex
	machines map[string]*Machine
}

// Machine is one of its machines.
type Machine struct {
	Stopping chan struct{}      // if not nil, Stop waits for it
	Line     io.ReadWriteCloser // its console

	h   *Host
	mu  sync.Mutex
	st  skep.Status
	did []string
}

// New makes a host that has the image debian12 and no machine.
func New() *Host {
	return &Host{machines: map[string]*Machine{}, Events: make(chan skep.Event)}
}

// The methods of apihost.Host.

func (h *Host) Create(_ context.Context, spec skep.MachineSpec) (skep.Status, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Fail != nil {
		return skep.Status{}, h.Fail
	}
	if spec.Image != "debian12" {
		return skep.Status{}, fmt.Errorf("image %s: %w", spec.Image, skep.ErrNotFound)
	}
	k := spec.Namespace + "/" + spec.Name
	if h.machines[k] != nil {
		return skep.Status{}, fmt.Errorf("create %s: %w", k, skep.ErrExists)
	}
	n := byte(len(h.machines) + 2)
	m := &Machine{h: h, st: skep.Status{
		ID: strings.Repeat("a", 32), Spec: spec, State: skep.StateCreating, Progress: skep.Progress{Step: skep.StepClaimed, Doing: skep.StepImage, Percent: 10},
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("x", 3600)), Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 0, n}), 24),
		User: "debian", OS: "linux", Profile: "cloud-debian-x86-12", Emulator: "kvm", MAC: []byte{2, 0, 0, 0, 0, n},
	}}
	h.machines[k] = m
	return m.st, nil
}

// Machine finds a machine.
func (h *Host) Machine(ns, name string) (*Machine, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[ns+"/"+name]
	if m == nil {
		return nil, fmt.Errorf("machine %s/%s: %w", ns, name, skep.ErrNotFound)
	}
	return m, nil
}

func (h *Host) Status(ns, name string) (skep.Status, error) {
	m, err := h.Machine(ns, name)
	if err != nil {
		return skep.Status{}, err
	}
	return m.Status(), nil
}

func (h *Host) Do(ctx context.Context, ns, name string, op func(context.Context, apihost.Machine) error) error {
	m, err := h.Machine(ns, name)
	if err != nil {
		return err
	}
	return op(ctx, m)
}

func (h *Host) List(ns string) (out []skep.Status) {
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

func (h *Host) Info(context.Context) (skep.Info, error) {
	return skep.Info{Hostname: "hive", OS: "linux", Emulator: "kvm", Memory: 8 * skep.GiB, MemoryLimit: 7 * skep.GiB, MemoryCommitted: skep.GiB, DiskFree: 100 * skep.GiB, Addresses: 253, AddressesFree: 250}, nil
}

func (h *Host) Images(context.Context) ([]skep.Image, error) {
	return []skep.Image{{Name: "debian12", OS: "linux", Profile: "cloud-debian-x86-12", User: "debian", MinDisk: 2 * skep.GiB, Warm: true}}, nil
}

func (h *Host) WarmImage(_ context.Context, name string, progress func(done, total int64)) error {
	progress(1, 2)
	if name != "debian12" {
		return skep.ErrNotFound
	}
	return nil
}
func (h *Host) RemoveImage(context.Context, string) error { return nil }
func (h *Host) Flavors() []skep.Flavor                    { return skep.DefaultFlavors() }
func (h *Host) Watch(ctx context.Context, _ string) iter.Seq[skep.Event] {
	return func(yield func(skep.Event) bool) {
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-h.Events:
				if !yield(e) {
					return
				}
			}
		}
	}
}

// Change changes what the machine's status is.
func (m *Machine) Change(f func(*skep.Status)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.st)
}

// Set puts the machine into a state.
func (m *Machine) Set(s skep.State) { m.Change(func(st *skep.Status) { st.State = s }) }

// Did is what was done with the machine, in order.
func (m *Machine) Did() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.did)
}

func (m *Machine) note(what string, opt ...skep.StopOptions) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range opt {
		what += fmt.Sprintf(" %v %v", o.Force, o.Timeout)
	}
	m.did = append(m.did, what)
	return nil
}

// The methods of apihost.Machine.

func (m *Machine) Status() skep.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.st
}

func (m *Machine) Start(context.Context) error {
	m.Set(skep.StateRunning)
	return m.note("start")
}

func (m *Machine) Stop(ctx context.Context, opt skep.StopOptions) error {
	if m.Stopping != nil {
		m.Set(skep.StateStopping)
		select {
		case <-m.Stopping:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.Set(skep.StateStopped)
	return m.note("stop", opt)
}

func (m *Machine) Pause(context.Context) error {
	m.Set(skep.StatePaused)
	return m.note("pause")
}

func (m *Machine) Resume(context.Context) error {
	m.Set(skep.StateRunning)
	return m.note("resume")
}

func (m *Machine) Reboot(_ context.Context, opt skep.StopOptions) error {
	return m.note("reboot", opt)
}

func (m *Machine) Reset(context.Context) error                         { return m.note("reset") }
func (m *Machine) ConsoleLog(context.Context) ([]byte, error)          { return []byte("login: "), nil }
func (m *Machine) Stats(context.Context) (skep.Stats, error)           { return skep.Stats{RSS: 7}, nil }
func (m *Machine) Snapshot(_ context.Context, name string) error       { return errors.ErrUnsupported }
func (m *Machine) RemoveSnapshot(context.Context, string) error        { return skep.ErrNotFound }
func (m *Machine) Rollback(context.Context, string) error              { return skep.ErrBusy }
func (m *Machine) Console(context.Context) (io.ReadWriteCloser, error) { return m.Line, nil }
func (m *Machine) Snapshots(context.Context) ([]skep.Snapshot, error) {
	return []skep.Snapshot{{Name: "a", Used: 1}}, nil
}
func (m *Machine) Clone(context.Context, string, skep.MachineSpec) (*skep.Machine, error) {
	return nil, fmt.Errorf("clone: %w", skep.ErrNoSpace)
}
func (m *Machine) Destroy(context.Context) error {
	m.h.mu.Lock()
	defer m.h.mu.Unlock()
	delete(m.h.machines, m.st.Spec.Namespace+"/"+m.st.Spec.Name)
	return nil
}
