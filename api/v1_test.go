// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"fmt"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/skepvm/skep"
	"github.com/skepvm/skep/api/wire"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestV1Life(t *testing.T) {
	r := newRig(t, Options{})
	cid := wire.CID(testKey)
	code, a := r.do("POST", "/api/v1/create/vm1", "", body())
	if code != 200 || a["id"] != "vm1" || a["instanceid"] != "vm1" || a["Message"] != nil {
		t.Fatal(code, a)
	}
	if want := fmt.Sprintf("curl -H cid:%s %s/api/v1/status/vm1", cid, r.http.URL); a["status"] != want {
		t.Fatalf("status line %q, want %q", a["status"], want)
	}
	code, a = r.do("GET", "/api/v1/status/vm1", cid, "")
	if code != 200 || a["is_power_on"] != "false" || a["status"] != "pending" || a["progress"] != 10.0 || a["doing"] != "image" || a["id"] != "vm1" {
		t.Fatal("pending:", code, a)
	}
	m, _ := r.h.Machine(cid, "vm1")
	m.Set(skep.StateRunning)
	_, a = r.do("GET", "/api/v1/status/vm1", cid, "")
	for k, want := range map[string]any{
		"id": "vm1", "instanceid": "vm1", "type": "vm", "emulator": "kvm", "is_power_on": true, "created": "2026-01-02T02:04:05",
		"cpus": 2.0, "ram": "1g", "ram_bytes": float64(1 << 30), "imgsize": "10g", "imgsize_bytes": float64(10 << 30),
		"vm_os_type": "linux", "vm_os_profile": "cloud-debian-x86-12", "image": "debian12", "ssh_user": "debian",
		"ssh_host": "10.77.0.2", "ssh_port": 22.0, "ssh4_host": "10.77.0.2", "ssh_string": "ssh debian@10.77.0.2 -p22",
		"ssh4_string": "ssh debian@10.77.0.2 -p22", "ssh6_string": "",
	} {
		if a[k] != want {
			t.Errorf("status %s: %v, want %v", k, a[k], want)
		}
	}
	_, a = r.do("GET", "/api/v1/cluster", cid, "")
	server := a["servers"].([]any)[0].(map[string]any)
	totals := a["clusters"].([]any)[0].(map[string]any)
	if server["instanceid"] != "vm1" || server["hw"] != "2/1g/10g" || totals["total_cpus"] != 2.0 || totals["total_ram"] != "1g" {
		t.Error(a)
	}
	for _, x := range [][2]string{{"stop", "stopped"}, {"start", "started"}, {"destroy", "destroy"}, {"status", "not found"}, {"destroy", "not found"}} {
		if code, a := r.do("GET", "/api/v1/"+x[0]+"/vm1", cid, ""); code != 200 || a["Message"] != x[1] || a["sniff"] != "nosniff" || a["content-type"] != "application/json; charset=utf-8" {
			t.Errorf("%s: %d %v", x[0], code, a)
		}
	}
	if _, a := r.do("GET", "/api/v1/cluster", cid, ""); strings.TrimSpace(a["raw"].(string)) != "{}" {
		t.Error("empty cluster:", a)
	}
}

func TestV1Refusals(t *testing.T) {
	r := newRig(t, Options{AllowedKeys: []string{testKey}})
	cid := wire.CID(testKey)
	other := strings.Replace(body(), "user@example", "other@example", 1)
	r.do("POST", "/api/v1/create/vm1", "", body())
	for _, x := range []struct{ method, path, cid, body, message string }{
		{"POST", "/api/v1/create/vm1", "", body(), "vm already exist"},
		{"POST", "/api/v1/create/vm2", "", other, "not allowed"},
		{"POST", "/api/v1/create/VM", "", body(), "The InstanceId should be valid form: ^[a-z_]([a-z0-9_])*$ (maxlen: 40)"},
		{"POST", "/api/v1/create/", "", body(), "The InstanceId should be valid form: ^[a-z_]([a-z0-9_])*$ (maxlen: 40)"},
		{"POST", "/api/v1/create/a%2f..%2fb", "", body(), "The InstanceId should be valid form: ^[a-z_]([a-z0-9_])*$ (maxlen: 40)"},
		{"POST", "/api/v1/create/a%00b", "", body(), "The InstanceId should be valid form: ^[a-z_]([a-z0-9_])*$ (maxlen: 40)"},
		{"POST", "/api/v1/create/vm3", "", body("image", `"plan9"`), "No such image: plan9; this host has: debian12"},
		{"POST", "/api/v1/create/vm3", "", body("image", `"jail"`), "This host makes virtual machines only: jails are not offered"},
		{"GET", "/api/v1/status/vm1", "", "", "The cid should be valid form: ^[a-f0-9]{32}$"},
		{"GET", "/api/v1/status/vm1", "../../etc", "", "The cid should be valid form: ^[a-f0-9]{32}$"},
		{"GET", "/api/v1/destroy/vm1", wire.CID("x"), "", "not allowed"},
		{"GET", "/api/v1/stop/none", cid, "", "not found"},
		{"GET", "/api/v1/cluster", "", "", "The cid should be valid form: ^[a-f0-9]{32}$"},
		{"GET", "/api/v1/create/vm1", cid, "", `No such route: GET "/api/v1/create/vm1"; see /`},
		{"DELETE", "/api/v1/vm1", cid, "", `No such route: DELETE "/api/v1/vm1"; see /`},
	} {
		if code, a := r.do(x.method, x.path, x.cid, x.body); a["Message"] != x.message || code >= 500 {
			t.Errorf("%s %s: %d %v, want %q", x.method, x.path, code, a["raw"], x.message)
		}
	}
	if len(r.h.List("")) != 1 {
		t.Errorf("a refusal made something: %v", r.h.List(""))
	}
	r.h.Fail = fmt.Errorf("create: %w: 3g of memory asked, 1g left", skep.ErrNoSpace)
	if code, a := r.do("POST", "/api/v1/create/vm4", "", body()); code != v1Refused || !strings.Contains(a["Message"].(string), "1g left") {
		t.Error(code, a)
	}
}

// With vm1 to vm255 taken nothing is made, and one that goes makes room.
func TestNoFreeName(t *testing.T) {
	r := newRig(t, Options{})
	cid := wire.CID(testKey)
	for i := 1; i <= 255; i++ {
		if _, err := r.h.Create(t.Context(), skep.MachineSpec{Namespace: cid, Name: fmt.Sprintf("vm%d", i), Image: "debian12"}); err != nil {
			t.Fatal(err)
		}
	}
	if code, a := r.do("POST", "/api/v1/create/_", "", body()); code != v1Refused || a["Message"] != "No free name: vm1 to vm255 are all taken" {
		t.Error(code, a)
	}
	if code, a := r.do("POST", "/api/v2/machines", cid, `{"image":"debian12"}`); code != http.StatusConflict || a["detail"] != "No free name: vm1 to vm255 are all taken" {
		t.Error(code, a)
	}
	if n := len(r.h.List(cid)); n != 255 {
		t.Errorf("%d machines", n)
	}
	r.do("GET", "/api/v1/destroy/vm255", cid, "")
	if code, a := r.do("POST", "/api/v1/create/_", "", body()); code != 200 || a["id"] != "vm255" {
		t.Error(code, a)
	}
}

func TestV1FirstFreeNameAndLegacy(t *testing.T) {
	r := newRig(t, Options{PublicURL: "https://cloud.example/"})
	for i := 1; i <= 3; i++ {
		_, a := r.do("POST", "/api/v1/create/_", "", body("image", "", "img", `"debian12"`, "cpus", `"1"`))
		if want := fmt.Sprintf("vm%d", i); a["id"] != want {
			t.Fatal(a)
		}
		lines := a["Message"].([]any)
		if len(lines) != 5 || !strings.HasPrefix(lines[1].(string), "curl -H cid:"+wire.CID(testKey)+" https://cloud.example/api/v1/status/vm") {
			t.Fatal(lines)
		}
	}
	// The same name under another key is another machine.
	if code, a := r.do("POST", "/api/v1/create/vm1", "", strings.Replace(body(), "user@example", "x", 1)); code != 200 {
		t.Error(code, a)
	}
}

// What a create asks for is what the host is asked for.
func TestV1CreateReachesTheHost(t *testing.T) {
	r := newRig(t, Options{})
	code, a := r.do("POST", "/api/v1/create/vm1", "", body("pkglist", `" mc  nginx "`, "host_hostname", `"hive_one"`,
		"email", `"a@b"`, "callback", `"http://x/y"`, "extras", `"a:b,c"`, "recomendation", `"node1"`))
	if code != 200 {
		t.Fatal(code, a)
	}
	cid := wire.CID(testKey)
	st, err := r.h.Status(cid, "vm1")
	want := skep.MachineSpec{
		Namespace: cid, Name: "vm1", Image: "debian12", CPUs: 2, Memory: skep.GiB, Disk: 10 * skep.GiB, Keys: []string{testKey},
		Hostname: "hive-one", Packages: []string{"mc", "nginx"},
		Labels: map[string]string{"email": "a@b", "callback": "http://x/y", "extras": "a:b,c", "node": "node1"},
	}
	if err != nil || !reflect.DeepEqual(st.Spec, want) {
		t.Errorf("%+v, want %+v (%v)", st.Spec, want, err)
	}
}

func TestV1StopAnswersBeforeTheGuestIsOff(t *testing.T) {
	r := newRig(t, Options{})
	cid := wire.CID(testKey)
	r.do("POST", "/api/v1/create/vm1", "", body())
	m, _ := r.h.Machine(cid, "vm1")
	m.Stopping = make(chan struct{})
	if _, a := r.do("GET", "/api/v1/stop/vm1", cid, ""); a["Message"] != "stopped" {
		t.Fatal(a)
	}
	if st := m.Status().State; st != skep.StateStopping {
		t.Fatal(st)
	}
	close(m.Stopping)
}

func TestCatalogues(t *testing.T) {
	r := newRig(t, Options{Version: "1"})
	if _, a := r.do("GET", "/images", "", ""); fmt.Sprint(a["images"]) != "[debian12]" {
		t.Error(a)
	}
	if _, a := r.do("GET", "/flavors", "", ""); len(a["flavor"].([]any)) != 3 {
		t.Error(a)
	}
	if _, a := r.do("GET", "/profiles", "", ""); !strings.Contains(a["raw"].(string), `"vm_ram_max": "6g"`) {
		t.Error(a)
	}
	r.do("POST", "/api/v1/create/vm1", "", body())
	_, a := r.do("GET", "/status", "", "")
	cid := wire.CID(testKey)
	if page := a["raw"].(string); !strings.Contains(page, cid[:2]+"..."+cid[30:]) || strings.Contains(page, cid) || !strings.Contains(page, `content="10"`) {
		t.Error(page)
	}
	if _, a := r.do("GET", "/", "", ""); !strings.Contains(a["raw"].(string), "curl -X POST -d @vm1.json "+r.http.URL) {
		t.Error(a)
	}
	if _, a := r.do("GET", "/metrics", "", ""); !strings.Contains(a["raw"].(string), `skep_machines{state="creating"} 1`) || !strings.Contains(a["raw"].(string), `skep_memory_bytes{kind="limit"} 7.516192768e+09`) {
		t.Error(a)
	}
}

func TestHostHeaderIsNotEchoedBlindly(t *testing.T) {
	r := newRig(t, Options{})
	c, err := net.Dial("tcp", r.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := body()
	fmt.Fprintf(c, "POST /api/v1/create/vm1 HTTP/1.1\r\nHost: a;rm\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(b), b)
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 8192)
	n, _ := c.Read(buf)
	if strings.Contains(string(buf[:n]), "rm/api") {
		t.Errorf("%s", buf[:n])
	}
}
