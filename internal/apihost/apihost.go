// SPDX-License-Identifier: BSD-2-Clause

package apihost

import (
	"context"
	"io"
	"iter"

	"github.com/skepvm/skep"
)

// Host is what the handlers use of a skep.Host, with machines named by namespace
// and name.
type Host interface {
	Create(ctx context.Context, spec skep.MachineSpec) (skep.Status, error)
	Status(namespace, name string) (skep.Status, error)
	Do(ctx context.Context, namespace, name string, op func(context.Context, Machine) error) error
	List(namespace string) []skep.Status
	Info(ctx context.Context) (skep.Info, error)
	Images(ctx context.Context) ([]skep.Image, error)
	WarmImage(ctx context.Context, name string, progress func(done, total int64)) error
	RemoveImage(ctx context.Context, name string) error
	Flavors() []skep.Flavor
	Watch(ctx context.Context, namespace string) iter.Seq[skep.Event]
}

// Machine is what the handlers use of a skep.Machine.
type Machine interface {
	Status() skep.Status
	Start(ctx context.Context) error
	Stop(ctx context.Context, opts skep.StopOptions) error
	Reset(ctx context.Context) error
	Reboot(ctx context.Context, opts skep.StopOptions) error
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Destroy(ctx context.Context) error
	Console(ctx context.Context) (io.ReadWriteCloser, error)
	ConsoleLog(ctx context.Context) ([]byte, error)
	Stats(ctx context.Context) (skep.Stats, error)
	Snapshot(ctx context.Context, name string) error
	Snapshots(ctx context.Context) ([]skep.Snapshot, error)
	RemoveSnapshot(ctx context.Context, name string) error
	Rollback(ctx context.Context, name string) error
	Clone(ctx context.Context, snapshot string, spec skep.MachineSpec) (*skep.Machine, error)
}

// Of is a skep.Host as a Host.
func Of(h *skep.Host) Host { return host{h} }

type host struct{ *skep.Host }

func (h host) Create(ctx context.Context, spec skep.MachineSpec) (skep.Status, error) {
	m, err := h.Host.Create(ctx, spec)
	if err != nil {
		return skep.Status{}, err
	}
	return m.Status(), nil
}

func (h host) Status(namespace, name string) (skep.Status, error) {
	m, err := h.Get(namespace, name)
	if err != nil {
		return skep.Status{}, err
	}
	return m.Status(), nil
}

func (h host) Do(ctx context.Context, namespace, name string, op func(context.Context, Machine) error) error {
	m, err := h.Get(namespace, name)
	if err != nil {
		return err
	}
	return op(ctx, m)
}
