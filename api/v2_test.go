// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/skepvm/skep"
	"github.com/skepvm/skep/api/wire"
)

func TestV2Life(t *testing.T) {
	r := newRig(t, Options{})
	cid := wire.CID(testKey)
	code, a := r.do("POST", "/api/v2/machines", cid, `{"image":"debian12","cpus":2,"memory":1073741824}`)
	if code != 202 || a["name"] != "vm1" || a["namespace"] != cid || a["state"] != "creating" {
		t.Fatal(code, a)
	}
	for _, x := range []struct {
		method, path, cid, body string
		code                    int
		want                    string
	}{
		{"POST", "/api/v2/machines", cid, `{"name":"vm1","image":"debian12"}`, 409, "already exists"},
		{"POST", "/api/v2/machines", cid, `{"name":"vm9","image":"debian12","cpus":99}`, 422, "cpus"},
		{"POST", "/api/v2/machines", cid, `{"name":"vm9","image":"debian12","address":"here"}`, 422, "address"},
		{"POST", "/api/v2/machines", cid, `{"name":"vm9"}`, 422, "image"},
		{"POST", "/api/v2/machines", "", `{"image":"debian12"}`, 401, "cid is missing"},
		{"GET", "/api/v2/machines/vm1", wire.CID("x"), "", 404, "not found"},
		{"GET", "/api/v2/machines/vm1", "zz", "", 400, "cid should be valid"},
		{"POST", "/api/v2/machines/vm1/start", cid, "", 200, `"running"`},
		{"POST", "/api/v2/machines/vm1/pause", cid, "", 200, `"paused"`},
		{"POST", "/api/v2/machines/vm1/resume", cid, "", 200, `"running"`},
		{"GET", "/api/v2/machines/vm1/stats", cid, "", 200, `"rss":7`},
		{"GET", "/api/v2/machines/vm1/log", cid, "", 200, "login: "},
		{"GET", "/api/v2/machines/vm2/log", cid, "", 404, "not found"},
		{"GET", "/api/v2/machines/vm2/console", cid, "", 404, "not found"},
		{"POST", "/api/v2/machines/vm1/snapshots", cid, `{"name":"a"}`, 501, "unsupported"},
		{"GET", "/api/v2/machines/vm1/snapshots", cid, "", 200, `"used":1`},
		{"DELETE", "/api/v2/machines/vm1/snapshots/a", cid, "", 404, "not found"},
		{"POST", "/api/v2/machines/vm1/snapshots/a/rollback", cid, "", 409, "busy"},
		{"POST", "/api/v2/machines/vm1/clone", cid, `{"name":"vm3"}`, 507, "not enough room"},
		{"POST", "/api/v2/machines/vm1/stop?timeout=5", cid, "", 200, `"stopped"`},
		{"POST", "/api/v2/machines/vm1/stop?timeout=9999", cid, "", 422, "timeout"},
		{"GET", "/api/v2/images", "", "", 200, `"debian12"`},
		{"DELETE", "/api/v2/images/debian12", cid, "", 403, "operator"},
		{"GET", "/api/v2/host", "", "", 200, `"hive"`},
		{"POST", "/api/v2/images/plan9/warm", cid, "", 404, "no image"},
		{"POST", "/api/v2/images/debian12/warm", cid, "", 200, `"ready":true`},
		{"GET", "/api/v2/openapi.json", "", "", 200, `/api/v2/machines/{name}/console`},
		{"DELETE", "/api/v2/machines/vm1", cid, "", 204, ""},
		{"GET", "/api/v2/machines", cid, "", 200, "[]"},
	} {
		code, a := r.do(x.method, x.path, x.cid, x.body)
		if code != x.code || !strings.Contains(a["raw"].(string), x.want) {
			t.Errorf("%s %s %s: %d %v, want %d %q", x.method, x.path, x.body, code, a["raw"], x.code, x.want)
		}
	}
}

func TestV2CreateReachesTheHost(t *testing.T) {
	r := newRig(t, Options{})
	cid := wire.CID(testKey)
	for _, x := range []struct {
		body string
		want skep.MachineSpec
	}{
		{`{"name":"vm1","image":"debian12","cpus":2,"memory":1073741824,"disk":10737418240,"keys":["k"],"user":"anna","hostname":"www",
			"packages":["mc","nginx"],"run_commands":["echo a: b","true"],"address":"10.77.0.9","autostart":true,"stopped":true,"labels":{"a":"b"}}`,
			skep.MachineSpec{
				Name: "vm1", CPUs: 2, Memory: skep.GiB, Disk: 10 * skep.GiB, Keys: []string{"k"}, User: "anna", Hostname: "www",
				Packages: []string{"mc", "nginx"}, RunCommands: []string{"echo a: b", "true"},
				Address: netip.MustParseAddr("10.77.0.9"), Autostart: true, Stopped: true, Labels: map[string]string{"a": "b"},
			}},
		{`{"name":"vm2","image":"debian12","user_data":"#cloud-config\n"}`, skep.MachineSpec{Name: "vm2", UserData: []byte("#cloud-config\n")}},
	} {
		x.want.Namespace, x.want.Image = cid, "debian12"
		if code, a := r.do("POST", "/api/v2/machines", cid, x.body); code != 202 {
			t.Fatal(code, a)
		}
		if st, err := r.h.Status(cid, x.want.Name); err != nil || !reflect.DeepEqual(st.Spec, x.want) {
			t.Errorf("%+v, want %+v (%v)", st.Spec, x.want, err)
		}
	}
}

func TestV2Events(t *testing.T) {
	r := newRig(t, Options{})
	q, err := http.NewRequest("GET", r.http.URL+"/api/v2/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("cid", wire.CID(testKey))
	a, err := r.client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	r.h.Events <- skep.Event{Kind: skep.EventState, Name: "vm1", State: skep.StateRunning}
	r.h.Events <- skep.Event{Kind: skep.EventProgress, Name: "vm1", Progress: &skep.Progress{Step: skep.StepCloned, Percent: 50}}
	sc := bufio.NewScanner(a.Body)
	var got []wire.Event
	for len(got) < 2 && sc.Scan() {
		if data, ok := strings.CutPrefix(sc.Text(), "data: "); ok {
			var e wire.Event
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				t.Fatal(err)
			}
			got = append(got, e)
		}
	}
	if len(got) != 2 || got[0].State != "running" || got[1].Progress.Step != "cloned" {
		t.Fatalf("%+v", got)
	}
}

func TestV2Console(t *testing.T) {
	r := newRig(t, Options{})
	cid := wire.CID(testKey)
	r.do("POST", "/api/v1/create/vm1", "", body())
	m, _ := r.h.Machine(cid, "vm1")
	ours, guest := net.Pipe()
	m.Line = ours
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, r.http.URL+"/api/v2/machines/vm1/console", &websocket.DialOptions{HTTPClient: r.client, HTTPHeader: http.Header{"Cid": {cid}}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if err := c.Write(ctx, websocket.MessageBinary, []byte("root\r")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(guest, b); err != nil || string(b) != "root\r" {
		t.Fatal(string(b), err)
	}
	go guest.Write([]byte("Password:"))
	if _, b, err := c.Read(ctx); err != nil || string(b) != "Password:" {
		t.Fatal(string(b), err)
	}
	guest.Close()
	if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Fatal(err)
	}
}

func TestConsoleRefusesOtherOrigins(t *testing.T) {
	r := newRig(t, Options{})
	r.do("POST", "/api/v1/create/vm1", "", body())
	m, _ := r.h.Machine(wire.CID(testKey), "vm1")
	ours, guest := net.Pipe()
	defer guest.Close()
	m.Line = ours
	_, a, err := websocket.Dial(t.Context(), r.http.URL+"/api/v2/machines/vm1/console", &websocket.DialOptions{HTTPClient: r.client, HTTPHeader: http.Header{"Cid": {wire.CID(testKey)}, "Origin": {"https://evil.example"}}})
	if err == nil || a.StatusCode != http.StatusForbidden {
		t.Fatal(err)
	}
}

func TestOperatorOverTheUnixSocket(t *testing.T) {
	r := newRig(t, Options{})
	r.do("POST", "/api/v1/create/vm1", "", body())
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := r.s.NewHTTPServer()
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	defer func() { srv.Close(); <-done }()
	r.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	if code, a := r.do("GET", "/api/v2/machines", "", ""); code != 200 || !strings.Contains(a["raw"].(string), `"vm1"`) {
		t.Error(code, a)
	}
	if code, a := r.do("POST", "/api/v2/machines", "", `{"image":"debian12"}`); code != 202 || a["namespace"] != "local" {
		t.Error(code, a)
	}
	if code, a := r.do("GET", "/api/v2/machines/vm1?namespace="+wire.CID(testKey), "", ""); code != 200 || a["namespace"] != wire.CID(testKey) {
		t.Error(code, a)
	}
	if code, _ := r.do("DELETE", "/api/v2/images/debian12", "", ""); code != 204 {
		t.Error(code)
	}
}

// Of a body without end no more is taken than the way to the server holds.
func TestEndlessBodyIsCutOff(t *testing.T) {
	r := newRig(t, Options{})
	for _, path := range []string{"/api/v1/create/vm1", "/api/v2/machines"} {
		e := &endless{}
		q, err := http.NewRequest("POST", r.http.URL+path, io.LimitReader(e, 1<<30))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("cid", wire.CID(testKey))
		q.Header.Set("Content-Type", "application/json")
		if a, err := r.client.Do(q); err == nil { // else the answer came too late to be read
			if a.StatusCode/100 != 4 {
				t.Errorf("%s: %s", path, a.Status)
			}
			a.Body.Close()
		}
		if n := e.n.Load(); n > 16<<20 {
			t.Errorf("%s takes %d MiB of 1 GiB", path, n>>20)
		}
	}
}

func TestSlowBodyIsCutOff(t *testing.T) {
	r := newRig(t, Options{})
	r.http.Config.ReadTimeout = 0
	srv := r.s.NewHTTPServer()
	srv.ReadTimeout = 200 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	defer func() { srv.Close(); <-done }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST /api/v1/create/vm1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	b, err := io.ReadAll(c)
	if err != nil || !strings.Contains(string(b), "could not be read") {
		t.Fatal(string(b), err)
	}
	if len(r.h.List("")) != 0 {
		t.Fatal("made from half a body")
	}
}
