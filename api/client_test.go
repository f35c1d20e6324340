// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/skepvm/skep"
	"github.com/skepvm/skep/api/client"
	"github.com/skepvm/skep/api/wire"
)

// The Go client against the server, so that neither can drift from the other.
func TestClient(t *testing.T) {
	r := newRig(t, Options{Version: "1.2"})
	c, err := client.New(r.http.URL, wire.CID(testKey))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	m, err := c.Create(ctx, wire.Create{Image: "debian12", CPUs: 2})
	if err != nil || m.Name != "vm1" || m.Progress == nil || m.Progress.Step != "claimed" {
		t.Fatal(m, err)
	}
	if _, err := c.Create(ctx, wire.Create{Name: "vm1", Image: "debian12"}); !client.IsConflict(err) || !strings.HasPrefix(err.Error(), "create vm1: ") {
		t.Error(err)
	}
	if _, err := c.Create(ctx, wire.Create{Name: "vm2", Image: "debian12", CPUs: 17}); err == nil || !strings.Contains(err.Error(), "cpus") {
		t.Error(err)
	}
	if _, err := c.Machine(ctx, "none"); !client.IsNotFound(err) {
		t.Error(err)
	}
	for _, op := range []func() (wire.Machine, error){
		func() (wire.Machine, error) { return c.Start(ctx, "vm1") },
		func() (wire.Machine, error) {
			if m, err := c.Pause(ctx, "vm1"); err != nil || m.State != "paused" {
				t.Error(m, err)
			}
			return c.Resume(ctx, "vm1")
		},
		func() (wire.Machine, error) { return c.Resume(ctx, "vm1") },
		func() (wire.Machine, error) { return c.Reset(ctx, "vm1") },
		func() (wire.Machine, error) { return c.Reboot(ctx, "vm1", client.StopOptions{Timeout: time.Minute}) },
		func() (wire.Machine, error) { return c.Machine(ctx, "vm1") },
	} {
		if m, err := op(); err != nil || m.State != "running" {
			t.Error(m, err)
		}
	}
	if h, err := c.Host(ctx); err != nil || h.Hostname != "hive" || h.Version != "1.2" {
		t.Error(h, err)
	}
	if s, err := c.Stats(ctx, "vm1"); err != nil || s.RSS != 7 {
		t.Error(s, err)
	}
	if b, err := c.Log(ctx, "vm1"); err != nil || string(b) != "login: " {
		t.Error(string(b), err)
	}
	if l, err := c.Images(ctx); err != nil || len(l) != 1 {
		t.Error(l, err)
	}
	if l, err := c.Snapshots(ctx, "vm1"); err != nil || len(l) != 1 {
		t.Error(l, err)
	}
	if err := c.Rollback(ctx, "vm1", "a"); !client.IsConflict(err) {
		t.Error(err)
	}
	if _, err := c.Clone(ctx, "vm1", wire.Clone{Name: "vm2"}); err == nil || !strings.Contains(err.Error(), "not enough room") {
		t.Error(err)
	}
	moved := int64(0)
	if err := c.WarmImage(ctx, "debian12", func(done, _ int64) { moved = done }); err != nil || moved != 1 {
		t.Error(moved, err)
	}

	fm, _ := r.h.Machine(wire.CID(testKey), "vm1")
	ours, guest := net.Pipe()
	fm.Line = ours
	line, err := c.Console(ctx, "vm1")
	if err != nil {
		t.Fatal(err)
	}
	go io.WriteString(guest, "hello")
	b := make([]byte, 5)
	if _, err := io.ReadFull(line, b); err != nil || string(b) != "hello" {
		t.Error(string(b), err)
	}
	guest.Close()
	if _, err := line.Read(b); err != io.EOF {
		t.Error(err)
	}
	line.Close()
	if _, err := c.Console(ctx, "none"); !client.IsNotFound(err) {
		t.Error(err)
	}

	ectx, stop := context.WithCancel(ctx)
	ready := make(chan struct{})
	go func() {
		<-ready
		r.h.Events <- skep.Event{Kind: skep.EventState, Name: "vm1", State: skep.StateStopped}
	}()
	for e, err := range c.Events(ectx, func() { close(ready) }) {
		if err != nil || e.State != "stopped" {
			t.Error(e, err)
		}
		break
	}
	stop()

	if _, err := c.Stop(ctx, "vm1", client.StopOptions{Force: true}); err != nil {
		t.Error(err)
	}
	if err := c.Destroy(ctx, "vm1"); err != nil {
		t.Error(err)
	}
	if l, err := c.Machines(ctx); err != nil || len(l) != 0 {
		t.Error(l, err)
	}
}

func TestClientWithoutHost(t *testing.T) {
	c, err := client.New("unix:/nonexistent/skep.sock", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Host(t.Context()); err == nil || !strings.Contains(err.Error(), "is skepd running?") || !strings.Contains(err.Error(), "unix:/nonexistent/skep.sock") {
		t.Error(err)
	}
	for _, bad := range []string{"", "localhost:8080", "ftp://x", "http://"} {
		if _, err := client.New(bad, ""); err == nil {
			t.Errorf("%q taken", bad)
		}
	}
}
