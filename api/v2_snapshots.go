// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"context"

	"github.com/skepvm/skep"
	"github.com/skepvm/skep/api/wire"
	"github.com/skepvm/skep/internal/apihost"
)

type snapshotPath struct {
	Target
	Snapshot string `path:"snapshot" maxLength:"40"`
}

type snapshotInput struct {
	Target
	Body wire.Named
}

type cloneInput struct {
	Target
	Body wire.Clone
}

func (s *Server) v2Snapshots(ctx context.Context, in *Target) (*reply[[]wire.Snapshot], error) {
	out := &reply[[]wire.Snapshot]{Body: []wire.Snapshot{}}
	_, err := s.act(ctx, *in, func(ctx context.Context, m apihost.Machine) error {
		list, err := m.Snapshots(ctx)
		for _, x := range list {
			out.Body = append(out.Body, wire.Snapshot{Name: x.Name, Created: x.Created, Used: x.Used})
		}
		return err
	})
	return out, err
}

func (s *Server) v2Snapshot(ctx context.Context, in *snapshotInput) (*reply[wire.Machine], error) {
	return s.act(ctx, in.Target, func(ctx context.Context, m apihost.Machine) error { return m.Snapshot(ctx, in.Body.Name) })
}

func (s *Server) v2RemoveSnapshot(ctx context.Context, in *snapshotPath) (*struct{}, error) {
	_, err := s.act(ctx, in.Target, func(ctx context.Context, m apihost.Machine) error { return m.RemoveSnapshot(ctx, in.Snapshot) })
	return nil, err
}

func (s *Server) v2Rollback(ctx context.Context, in *snapshotPath) (*reply[wire.Machine], error) {
	return s.act(ctx, in.Target, func(ctx context.Context, m apihost.Machine) error { return m.Rollback(ctx, in.Snapshot) })
}

func (s *Server) v2Clone(ctx context.Context, in *cloneInput) (*reply[wire.Machine], error) {
	ns, _, err := s.space(ctx, in.Caller)
	if err != nil {
		return nil, err
	}
	var st skep.Status
	_, err = s.act(ctx, in.Target, func(ctx context.Context, m apihost.Machine) error {
		spec := skep.MachineSpec{
			Namespace: ns, Name: in.Body.Name, Keys: in.Body.Keys, Hostname: in.Body.Hostname, Stopped: in.Body.Stopped,
		}
		c, err := m.Clone(ctx, in.Body.Snapshot, spec)
		if err == nil {
			st = c.Status()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &reply[wire.Machine]{machineOf(st)}, nil
}
