// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"strings"
	"testing"

	"github.com/skepvm/skep"
	"github.com/skepvm/skep/api/wire"
)

const exactPending = `{
  "id": "web_1",
  "instanceid": "web_1",
  "is_power_on": "false",
  "status": "pending",
  "progress": 10,
  "step": "claimed",
  "doing": "image",
  "detail": "claimed (10%)"
}
`

const exactFailed = `{
  "id": "web_1",
  "instanceid": "web_1",
  "is_power_on": "false",
  "status": "failed",
  "progress": 10,
  "step": "claimed",
  "doing": "image",
  "detail": "image: failed: no route",
  "Message": "no route"
}
`

const exactRunning = `{
  "id": "web_1",
  "instanceid": "web_1",
  "type": "vm",
  "emulator": "kvm",
  "is_power_on": true,
  "status": "running",
  "created": "2026-01-02T02:04:05",
  "cpus": 2,
  "ram": "1g",
  "ram_bytes": 1073741824,
  "ram_human": "1g",
  "imgsize_bytes": 10737418240,
  "imgsize": "10g",
  "vm_os_type": "linux",
  "vm_os_profile": "cloud-debian-x86-12",
  "image": "debian12",
  "ssh_user": "debian",
  "ssh_host": "10.77.0.2",
  "ssh_port": 22,
  "ssh4_host": "10.77.0.2",
  "ssh4_port": 22,
  "ssh_string": "ssh debian@10.77.0.2 -p22",
  "ssh4_string": "ssh debian@10.77.0.2 -p22",
  "ssh6_string": "",
  "vnc_host": "",
  "vnc_port": 0,
  "vnc_password": "",
  "nic_hwaddr0": "02:00:00:00:00:02"
}
`

const exactCluster = `{
  "servers": [
    {
      "id": "web_1",
      "instanceid": "web_1",
      "type": "vm",
      "profile": "debian12",
      "vm_os_type": "linux",
      "vm_os_profile": "cloud-debian-x86-12",
      "is_power_on": true,
      "status": "running",
      "hw": "2/1g/10g",
      "ssh_user": "debian",
      "ssh_host": "10.77.0.2",
      "ssh_port": 22,
      "ssh4_host": "10.77.0.2",
      "ssh4_port": 22,
      "ssh_string": "ssh debian@10.77.0.2 -p22",
      "ssh4_string": "ssh debian@10.77.0.2 -p22",
      "ssh6_string": ""
    }
  ],
  "clusters": [
    {
      "total_environment": 1,
      "total_cpus": 2,
      "total_ram_bytes": 1073741824,
      "total_ram": "1g",
      "total_imgsize_bytes": 10737418240,
      "total_imgsize": "10g"
    }
  ]
}
`

// The answers byte for byte: clients in the field parse them.
func TestV1AnswersExactly(t *testing.T) {
	r := newRig(t, Options{PublicURL: "http://h"})
	cid := wire.CID(testKey)
	exact := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s:\n%s\nwant:\n%s", what, got, want)
		}
	}
	curl := func(what string) string { return "curl -H cid:" + cid + " http://h/api/v1/" + what }
	_, a := r.do("POST", "/api/v1/create/web_1", "", body())
	exact("create", a["raw"].(string), `{
  "id": "web_1",
  "instanceid": "web_1",
  "cluster": "`+curl("cluster")+`",
  "status": "`+curl("status/web_1")+`",
  "start": "`+curl("start/web_1")+`",
  "stop": "`+curl("stop/web_1")+`",
  "destroy": "`+curl("destroy/web_1")+`"
}
`)
	status := func() string {
		t.Helper()
		_, a := r.do("GET", "/api/v1/status/web_1", cid, "")
		return a["raw"].(string)
	}
	exact("pending", status(), exactPending)
	m, _ := r.h.Machine(cid, "web_1")
	m.Change(func(st *skep.Status) { st.State, st.Progress.Error = skep.StateFailed, "no route" })
	exact("failed", status(), exactFailed)
	m.Change(func(st *skep.Status) { st.State, st.Progress.Error = skep.StateRunning, "" })
	exact("running", status(), exactRunning)
	_, a = r.do("GET", "/api/v1/cluster", cid, "")
	exact("cluster", a["raw"].(string), exactCluster)
	for _, x := range [][2]string{{"stop", "stopped"}, {"start", "started"}, {"destroy", "destroy"}, {"status", "not found"}} {
		_, a := r.do("GET", "/api/v1/"+x[0]+"/web_1", cid, "")
		exact(x[0], a["raw"].(string), `{"Message":"`+x[1]+`"}`+"\n")
	}
}

// The id of a status is the hostname; nubectl wants to find there the name that
// it created the machine by, and never asks for another hostname.
func TestV1StatusID(t *testing.T) {
	r := newRig(t, Options{})
	cid := wire.CID(testKey)
	for _, c := range []struct{ name, asked, given, id string }{
		{"plain", "", "", "plain"},
		{"with_line", "", "", "with_line"},
		{"a_1", "a_1", "a-1", "a_1"},
		{"b_1", "b-1", "b-1", "b_1"},
		{"vm1", "hive-one", "hive-one", "hive-one"},
		{"vm2", "my_host.lan", "my-host.lan", "my-host.lan"},
	} {
		b := body()
		if c.asked != "" {
			b = body("host_hostname", `"`+c.asked+`"`)
		}
		if code, a := r.do("POST", "/api/v1/create/"+c.name, "", b); code != 200 || a["id"] != c.name {
			t.Errorf("create %s: %d %v", c.name, code, a["raw"])
			continue
		}
		m, _ := r.h.Machine(cid, c.name)
		if h := m.Status().Spec.Hostname; h != c.given {
			t.Errorf("%s: the guest gets %q, want %q", c.name, h, c.given)
		}
		// What the host makes of a spec that names none.
		m.Change(func(st *skep.Status) {
			if st.Spec.Hostname == "" {
				st.Spec.Hostname = strings.ReplaceAll(c.name, "_", "-")
			}
		})
		m.Set(skep.StateRunning)
		_, a := r.do("GET", "/api/v1/status/"+c.name, cid, "")
		if _, there := a["host_hostname"]; a["id"] != c.id || a["instanceid"] != c.name || there {
			t.Errorf("status of %s: %v, want the id %q", c.name, a["raw"], c.id)
		}
	}
}

// A machine without an address has every field all the same.
func TestV1StatusWithoutAddress(t *testing.T) {
	b := statusAnswer(skep.Status{Spec: skep.MachineSpec{Name: "vm1"}, State: skep.StateStopped, Reason: "ended by force"}).(vmStatus)
	if b.SSHHost != "" || b.SSHPort != 0 || b.IsPowerOn || b.Reason != "ended by force" {
		t.Errorf("%+v", b)
	}
}
