// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/skepvm/skep"
	"github.com/skepvm/skep/api"
	"github.com/skepvm/skep/api/wire"
	"github.com/skepvm/skep/internal/apihost/fakehost"
)

// realHost is a host whose machines are made up, behind the API of skepd itself.
type realHost struct {
	*fakehost.Host
	cid string
	// making is what becomes of a create, one at each look of the client at the
	// machine.
	making []func(*skep.Status)
}

func newRealCLI(t *testing.T) (*cli, *realHost) {
	c := newCLI(t)
	pub, err := os.ReadFile(c.key)
	if err != nil {
		t.Fatal(err)
	}
	h := &realHost{Host: fakehost.New(), cid: wire.CID(strings.TrimSuffix(string(pub), "\n"))}
	s, err := api.NewOver(h.Host, api.Options{Version: "1.2", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewUnstartedServer(nil)
	ts.Config = s.NewHTTPServer()
	ts.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dir, name := path.Split(r.URL.Path)
		if m, err := h.Machine(h.cid, name); err == nil && r.Method == "GET" && dir == "/api/v2/machines/" && len(h.making) > 0 {
			m.Change(h.making[0])
			h.making = h.making[1:]
		}
		s.ServeHTTP(w, r)
	})
	ts.Start()
	t.Cleanup(func() { _ = s.Close(); ts.Close() })
	c.url = ts.URL
	return c, h
}

// The commands against the API that skepd serves: neither side is made up.
func TestCommandsAgainstTheAPI(t *testing.T) {
	c, h := newRealCLI(t)
	userData := filepath.Join(t.TempDir(), "user-data")
	if err := os.WriteFile(userData, []byte("#cloud-config\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.making = []func(*skep.Status){
		func(st *skep.Status) {
			st.Progress = skep.Progress{Step: skep.StepImage, Doing: skep.StepCloned, Percent: 60}
		},
		func(st *skep.Status) {
			st.State, st.Progress = skep.StateRunning, skep.Progress{Step: skep.StepDone, Percent: 100}
		},
	}
	for _, x := range []struct {
		args []string
		want string // of the output, or of what is told besides
	}{
		{[]string{"list"}, "NAME  STATE  IMAGE  CPUS  RAM  DISK  ADDRESS  AGE\n"},
		{[]string{"create", "vm1", "--image", "debian12", "--cpus", "2", "--ram", "1g", "--disk", "10g", "--hostname", "www", "--user", "anna",
			"--package", "mc", "--package", "nginx", "--run", "echo a, b: c", "--address", "10.77.0.9", "--autostart"}, "vm1 is running at 10.77.0.2: skep ssh vm1\n"},
		{[]string{"list"}, "vm1   running  debian12  2     1g   10g   10.77.0.2  "},
		{[]string{"list", "--json"}, `"memory": 1073741824`},
		{[]string{"status", "vm1"}, "size     2 vCPU, 1g memory, 10g disk\n"},
		{[]string{"status", "vm1"}, "owner    " + h.cid + "\n"},
		{[]string{"stop", "vm1"}, "vm1 is stopped\n"},
		{[]string{"status", "vm1"}, "state    stopped\n"},
		{[]string{"start", "vm1"}, "vm1 is running\n"},
		{[]string{"stop", "vm1", "--force", "--timeout", "20s"}, "vm1 is stopped\n"},
		{[]string{"start", "vm1", "--json"}, `"state": "running"`},
		{[]string{"pause", "vm1"}, "vm1 is paused\n"},
		{[]string{"resume", "vm1"}, "vm1 is running\n"},
		{[]string{"reset", "vm1"}, "vm1 is running\n"},
		{[]string{"reboot", "vm1"}, "vm1 is running\n"},
		{[]string{"log", "vm1"}, "login: "},
		{[]string{"snapshot", "list", "vm1"}, "a         1"},
		{[]string{"image", "list"}, "debian12  linux   2g        debian  yes"},
		{[]string{"image", "fetch", "debian12"}, "debian12 is ready\n"},
		{[]string{"host"}, "hive (kvm on linux, skep 1.2)\n"},
		{[]string{"__complete", "status", ""}, "vm1\trunning, debian12\n"},
		{[]string{"create", "--image", "debian12", "--user-data", userData, "--stopped", "--no-wait"}, "vm2 is creating at 10.77.0.3: skep ssh vm2\n"},
	} {
		out, errs, err := c.run("", x.args...)
		if err != nil || !strings.Contains(out, x.want) {
			t.Errorf("%v: %v\n%s%s", x.args, err, out, errs)
		}
		if x.args[0] == "create" && len(x.args) > 8 && errs != "claimed (10%)\nimage (60%)\n" {
			t.Errorf("%v: told %q", x.args, errs)
		}
	}
	m, err := h.Machine(h.cid, "vm1")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := os.ReadFile(c.key)
	if err != nil {
		t.Fatal(err)
	}
	want := skep.MachineSpec{
		Namespace: h.cid, Name: "vm1", Image: "debian12", CPUs: 2, Memory: skep.GiB, Disk: 10 * skep.GiB, Keys: []string{strings.TrimSpace(string(pub))},
		User: "anna", Hostname: "www", Packages: []string{"mc", "nginx"}, RunCommands: []string{"echo a, b: c"}, Address: netip.MustParseAddr("10.77.0.9"), Autostart: true,
	}
	if got := m.Status().Spec; !reflect.DeepEqual(got, want) {
		t.Errorf("the host was asked for %+v, want %+v", got, want)
	}
	if got, want := strings.Join(m.Did(), ", "), "stop false 1m30s, start, stop true 20s, start, pause, resume, reset, reboot false 1m30s"; got != want {
		t.Errorf("the host did %s, want %s", got, want)
	}
	if other, err := h.Machine(h.cid, "vm2"); err != nil || string(other.Status().Spec.UserData) != "#cloud-config\n" || !other.Status().Spec.Stopped || other.Status().Spec.Keys != nil {
		t.Errorf("vm2: %v", err)
	}
	if out, _, err := c.run("", "destroy", "vm1", "vm2"); err != nil || out != "vm1 is gone\nvm2 is gone\n" {
		t.Error(out, err)
	}
	if left := h.List(""); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// What the host refuses is told in its own words.
func TestRefusalsOfTheAPI(t *testing.T) {
	c, h := newRealCLI(t)
	if _, _, err := c.run("", "create", "vm1", "--image", "debian12", "--no-wait"); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		args []string
		want string
	}{
		{[]string{"create", "vm1", "--image", "debian12"}, "already exists"},
		{[]string{"create", "vm2", "--image", "plan9"}, "create vm2: image plan9: not found"},
		{[]string{"create", "vm2", "--image", "debian12", "--cpus", "17"}, "cpus"},
		{[]string{"create", "vm2", "--image", "debian12", "--address", "here"}, "address"},
		{[]string{"status", "none"}, "status of none: machine " + h.cid + "/none: not found"},
		{[]string{"stop", "none"}, "stop none: machine " + h.cid + "/none: not found"},
		{[]string{"stop", "vm1", "--timeout", "1h"}, "timeout"},
		{[]string{"destroy", "none"}, "not found"},
		{[]string{"console", "none"}, "not found"},
		{[]string{"snapshot", "take", "vm1", "a"}, "unsupported"},
		{[]string{"snapshot", "rollback", "vm1", "a"}, "busy"},
		{[]string{"clone", "vm1", "vm2"}, "not enough room"},
		{[]string{"image", "fetch", "plan9"}, "plan9"},
		{[]string{"image", "remove", "debian12"}, "operator"},
	} {
		if out, _, err := c.run("", x.args...); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%v: %v, want %q\n%s", x.args, err, x.want, out)
		}
	}
	// A create that fails later.
	h.making = []func(*skep.Status){func(st *skep.Status) { st.State, st.Progress.Error = skep.StateFailed, "clone the disk: no room" }}
	if _, _, err := c.run("", "create", "vm3", "--image", "debian12"); err == nil || err.Error() != "create vm3: clone the disk: no room" {
		t.Error(err)
	}
	if list := h.List(""); len(list) != 2 {
		t.Errorf("a refusal made something: %v", list)
	}
}
