// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/skepvm/skep"
	"github.com/skepvm/skep/api/wire"
	"github.com/skepvm/skep/internal/apihost"
)

// Version 2: proper verbs, proper status codes, an OpenAPI document made from
// the Go types. Who calls is said as in version 1, by the header cid; over the
// Unix socket, where only the operator comes in, it may be left out: that is
// the namespace "local", and in lists every machine.

// Caller is the part of every request that says for whom.
type Caller struct {
	CID       string `header:"cid" doc:"md5 of the SSH public key that the machines belong to."`
	Namespace string `query:"namespace" maxLength:"64" doc:"For the operator, over the Unix socket: whose machines."`
}

// space returns the namespace that a request may act in; all is true where it
// is the operator's and none was named.
func (s *Server) space(ctx context.Context, w Caller) (ns string, all bool, err error) {
	operator, _ := ctx.Value(localKey{}).(bool)
	switch {
	case w.CID != "":
		if err := checkCID(w.CID); err != nil {
			return "", false, huma.Error400BadRequest(err.Error())
		}
		if s.allowed != nil && !s.allowed[w.CID] && !operator {
			return "", false, huma.Error403Forbidden("not allowed")
		}
		return w.CID, false, nil
	case operator && w.Namespace != "":
		return w.Namespace, false, nil
	case operator:
		return skep.LocalNamespace, true, nil
	}
	return "", false, huma.Error401Unauthorized("the header cid is missing: it says whose machines are meant")
}

// failV2 turns an error of the host into one with a status.
func (s *Server) failV2(err error) error {
	if err == nil {
		return nil
	}
	var se huma.StatusError
	switch {
	case errors.As(err, &se):
		return err
	case errors.Is(err, skep.ErrInvalid):
		return huma.Error422UnprocessableEntity(err.Error())
	case errors.Is(err, skep.ErrNotFound):
		return huma.Error404NotFound(err.Error())
	case errors.Is(err, skep.ErrExists), errors.Is(err, skep.ErrBusy):
		return huma.Error409Conflict(err.Error())
	case errors.Is(err, skep.ErrNoSpace):
		return huma.NewError(http.StatusInsufficientStorage, err.Error())
	case errors.Is(err, errors.ErrUnsupported):
		return huma.Error501NotImplemented(err.Error())
	case errors.Is(err, skep.ErrClosed):
		return huma.Error503ServiceUnavailable(err.Error())
	}
	s.log.Error("request failed", "err", err)
	return huma.Error500InternalServerError(err.Error())
}

// Target names a machine in a path. (Embedded structures of inputs must be
// exported for package huma to see them.)
type Target struct {
	Caller
	Name string `path:"name" maxLength:"40"`
}

type reply[T any] struct{ Body T }

func (s *Server) routesV2() {
	cfg := huma.DefaultConfig("skep", s.opt.Version)
	cfg.Info.Description = "Virtual machines from cloud images."
	cfg.OpenAPIPath, cfg.SchemasPath, cfg.DocsPath = "/api/v2/openapi", "/api/v2/schemas", ""
	cfg.CreateHooks = nil // no $schema member in every answer
	api := humago.New(s.mux, cfg)

	route(s, api, "GET", "/api/v2/host", "What the host has and what is left of it.", s.v2Host)
	route(s, api, "GET", "/api/v2/machines", "List machines.", s.v2List)
	route(s, api, "POST", "/api/v2/machines", "Create a machine. It answers at once; the machine's progress tells the rest.", s.v2Create)
	route(s, api, "GET", "/api/v2/machines/{name}", "A machine as it is now.", s.v2Get)
	route(s, api, "DELETE", "/api/v2/machines/{name}", "Destroy a machine and all that it has.", s.v2Destroy)
	for verb, what := range map[string]string{
		"start": "Start it; one that runs is left alone.", "reset": "Reset it in place.",
		"pause": "Halt its vCPUs.", "resume": "Let it run on.",
	} {
		route(s, api, "POST", "/api/v2/machines/{name}/"+verb, what, s.v2Verb(verb))
	}
	route(s, api, "POST", "/api/v2/machines/{name}/stop", "Press the power button and wait until it is off.", s.v2Stop(false))
	route(s, api, "POST", "/api/v2/machines/{name}/reboot", "Stop it and start it again.", s.v2Stop(true))
	route(s, api, "GET", "/api/v2/machines/{name}/stats", "Counters of a running machine.", s.v2Stats)
	route(s, api, "GET", "/api/v2/machines/{name}/snapshots", "List snapshots, the oldest first.", s.v2Snapshots)
	route(s, api, "POST", "/api/v2/machines/{name}/snapshots", "Take a snapshot of the disk.", s.v2Snapshot)
	route(s, api, "DELETE", "/api/v2/machines/{name}/snapshots/{snapshot}", "Drop a snapshot.", s.v2RemoveSnapshot)
	route(s, api, "POST", "/api/v2/machines/{name}/snapshots/{snapshot}/rollback", "Put the disk of a stopped machine back.", s.v2Rollback)
	route(s, api, "POST", "/api/v2/machines/{name}/clone", "Make a new machine from this one.", s.v2Clone)
	route(s, api, "GET", "/api/v2/images", "The catalogue.", s.v2Images)
	route(s, api, "DELETE", "/api/v2/images/{name}", "Drop the warm copy of an image (operator).", s.v2RemoveImage)
	s.streamsV2(api)
}

// route registers one operation, with its name made from method and path.
func route[I, O any](s *Server, api huma.API, method, path, summary string, h func(context.Context, *I) (*O, error)) {
	status := 0 // huma's choice: 200, or 204 without a body
	if path == "/api/v2/machines" && method == "POST" || strings.HasSuffix(path, "/clone") {
		status = http.StatusAccepted
	}
	huma.Register(api, huma.Operation{
		DefaultStatus: status,
		OperationID:   operationID(method, path),
		Method:        method,
		Path:          path,
		Summary:       summary,
		MaxBodyBytes:  2 * maxBody,
	}, func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, in)
		return out, s.failV2(err)
	})
}

func operationID(method, path string) string {
	return strings.ToLower(method) + strings.NewReplacer("/api/v2", "", "{", "", "}", "", "/", "-").Replace(path)
}

func (s *Server) v2Host(ctx context.Context, _ *struct{}) (*reply[wire.Host], error) {
	i, err := s.host.Info(ctx)
	if err != nil {
		return nil, err
	}
	return &reply[wire.Host]{wire.Host{
		Hostname: i.Hostname, OS: i.OS, Emulator: i.Emulator, Version: s.opt.Version, CPUs: i.CPUs,
		Memory: i.Memory, MemoryLimit: i.MemoryLimit, MemoryCommitted: i.MemoryCommitted,
		DiskFree: i.DiskFree, DiskPromised: i.DiskPromised, Machines: i.Machines, Running: i.Running,
		AddressesFree: i.AddressesFree, Store: i.Store,
	}}, nil
}

func (s *Server) v2List(ctx context.Context, in *Caller) (*reply[[]wire.Machine], error) {
	ns, all, err := s.space(ctx, *in)
	if err != nil {
		return nil, err
	}
	if all {
		ns = ""
	}
	list := s.host.List(ns)
	out := make([]wire.Machine, 0, len(list))
	for _, st := range list {
		out = append(out, machineOf(st))
	}
	return &reply[[]wire.Machine]{out}, nil
}

type createInput struct {
	Caller
	Body wire.Create
}

func (s *Server) v2Create(ctx context.Context, in *createInput) (*reply[wire.Machine], error) {
	ns, _, err := s.space(ctx, in.Caller)
	if err != nil {
		return nil, err
	}
	c := in.Body
	spec := skep.MachineSpec{
		Namespace: ns, Name: c.Name, Image: c.Image, CPUs: c.CPUs, Memory: c.Memory, Disk: c.Disk,
		Keys: c.Keys, User: c.User, Hostname: c.Hostname, Packages: c.Packages, RunCommands: c.RunCommands,
		Autostart: c.Autostart, Stopped: c.Stopped, Labels: c.Labels,
	}
	if c.UserData != "" {
		spec.UserData = []byte(c.UserData)
	}
	if c.Address != "" {
		if spec.Address, err = netip.ParseAddr(c.Address); err != nil {
			return nil, huma.Error422UnprocessableEntity("address: " + err.Error())
		}
	}
	st, err := s.createFree(ctx, spec)
	if err != nil {
		var re *requestError
		if errors.As(err, &re) {
			return nil, huma.Error409Conflict(re.message)
		}
		return nil, err
	}
	return &reply[wire.Machine]{machineOf(st)}, nil
}

func (s *Server) v2Get(ctx context.Context, in *Target) (*reply[wire.Machine], error) {
	ns, _, err := s.space(ctx, in.Caller)
	if err != nil {
		return nil, err
	}
	st, err := s.host.Status(ns, in.Name)
	if err != nil {
		return nil, err
	}
	return &reply[wire.Machine]{machineOf(st)}, nil
}

// act runs op on a machine to its end even if the client goes away, and answers
// with the machine as it is then.
func (s *Server) act(ctx context.Context, in Target, op func(context.Context, apihost.Machine) error) (*reply[wire.Machine], error) {
	ns, _, err := s.space(ctx, in.Caller)
	if err != nil {
		return nil, err
	}
	var st skep.Status
	done := s.background(in.Name, func(ctx context.Context) error {
		return s.host.Do(ctx, ns, in.Name, func(ctx context.Context, m apihost.Machine) error {
			err := op(ctx, m)
			st = m.Status()
			return err
		})
	})
	if err := <-done; err != nil {
		return nil, err
	}
	return &reply[wire.Machine]{machineOf(st)}, nil
}

func (s *Server) v2Verb(verb string) func(context.Context, *Target) (*reply[wire.Machine], error) {
	return func(ctx context.Context, in *Target) (*reply[wire.Machine], error) {
		return s.act(ctx, *in, func(ctx context.Context, m apihost.Machine) error {
			switch verb {
			case "start":
				return m.Start(ctx)
			case "reset":
				return m.Reset(ctx)
			case "pause":
				return m.Pause(ctx)
			default:
				return m.Resume(ctx)
			}
		})
	}
}

type stopInput struct {
	Target
	Force   bool `query:"force" doc:"As by pulling the plug."`
	Timeout int  `query:"timeout" minimum:"0" maximum:"150" doc:"Seconds that the guest may take before it is ended by force; default 90."`
}

func (s *Server) v2Stop(again bool) func(context.Context, *stopInput) (*reply[wire.Machine], error) {
	return func(ctx context.Context, in *stopInput) (*reply[wire.Machine], error) {
		opt := skep.StopOptions{Force: in.Force, Timeout: time.Duration(in.Timeout) * time.Second}
		return s.act(ctx, in.Target, func(ctx context.Context, m apihost.Machine) error {
			if again {
				return m.Reboot(ctx, opt)
			}
			return m.Stop(ctx, opt)
		})
	}
}

func (s *Server) v2Destroy(ctx context.Context, in *Target) (*struct{}, error) {
	_, err := s.act(ctx, *in, func(ctx context.Context, m apihost.Machine) error { return m.Destroy(ctx) })
	return nil, err
}

func (s *Server) v2Stats(ctx context.Context, in *Target) (*reply[wire.Stats], error) {
	var out reply[wire.Stats]
	_, err := s.act(ctx, *in, func(ctx context.Context, m apihost.Machine) error {
		st, err := m.Stats(ctx)
		out.Body = wire.Stats{CPUSeconds: st.CPUTime.Seconds(), RSS: st.RSS, GuestMemory: st.GuestMemory, DiskUsed: st.DiskUsed, Counters: st.Counters}
		return err
	})
	return &out, err
}

func (s *Server) v2Images(ctx context.Context, _ *struct{}) (*reply[[]wire.Image], error) {
	list, err := s.host.Images(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]wire.Image, 0, len(list))
	for _, i := range list {
		out = append(out, wire.Image{Name: i.Name, OS: i.OS, Description: i.Description, User: i.User, MinDisk: i.MinDisk, MinMemory: i.MinMemory, Warm: i.Warm})
	}
	return &reply[[]wire.Image]{out}, nil
}

type imageInput struct {
	Caller
	Name string `path:"name" maxLength:"64"`
}

func (s *Server) v2RemoveImage(ctx context.Context, in *imageInput) (*struct{}, error) {
	if operator, _ := ctx.Value(localKey{}).(bool); !operator {
		return nil, huma.Error403Forbidden("only the operator, over the Unix socket, may drop images")
	}
	return nil, s.host.RemoveImage(ctx, in.Name)
}

func machineOf(st skep.Status) wire.Machine {
	m := wire.Machine{
		ID: st.ID, Namespace: st.Spec.Namespace, Name: st.Spec.Name, State: string(st.State), Reason: st.Reason,
		Image: st.Spec.Image, CPUs: st.Spec.CPUs, Memory: st.Spec.Memory, Disk: st.Spec.Disk,
		MAC: st.MAC.String(), User: st.User, OS: st.OS, Emulator: st.Emulator,
		Created: st.Created, Resets: st.Resets, Autostart: st.Spec.Autostart, Labels: st.Spec.Labels,
	}
	if st.Address.IsValid() {
		m.Address = st.Address.Addr().String()
	}
	if !st.Started.IsZero() {
		m.Started = &st.Started
	}
	if !st.Stopped.IsZero() {
		m.Stopped = &st.Stopped
	}
	if st.Progress.Step != skep.StepDone {
		m.Progress = progressOf(st.Progress)
	}
	return m
}

func progressOf(p skep.Progress) *wire.Progress {
	return &wire.Progress{Step: string(p.Step), Doing: string(p.Doing), Percent: p.Percent, Text: p.String(), Error: p.Error}
}
