// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && (linux || guests)

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skepvm/skep/api/client"
	"github.com/skepvm/skep/api/wire"
)

// zeros never ends, and counts what was drawn.
type zeros struct{ drawn atomic.Int64 }

func (z *zeros) Read(p []byte) (int, error) {
	z.drawn.Add(int64(len(p)))
	clear(p)
	return len(p), nil
}

// Every bad request is refused with its cause, by a real daemon on a real host,
// and nothing is made.
func TestBadRequests(t *testing.T) {
	d := startDaemon(t)
	alice := newIdentity(t, "alice")
	key := fmt.Sprintf("%q", alice.pub)
	with := func(extra string) string { return `{"image":"tiny","pubkey":` + key + extra + `}` }
	for _, x := range []struct{ path, body, message string }{
		{"../../etc", with(""), ""},
		{"..%2f..%2fetc", with(""), "The InstanceId should be valid form"},
		{"a%00b", with(""), "The InstanceId should be valid form"},
		{strings.Repeat("a", 41), with(""), "The InstanceId should be valid form"},
		{"VM", with(""), "The InstanceId should be valid form"},
		{"vm1", ``, "not valid JSON"},
		{"vm1", `[]`, "should be a JSON object"},
		{"vm1", with(`,`), "not valid JSON"},
		{"vm1", with(`,"cpus":1,"cpus":2`), "given twice"},
		{"vm1", with(`,"Image":"tiny"`), "given twice"},
		{"vm1", `{"pubkey":` + key + `}`, "Empty image field"},
		{"vm1", `{"image":"tiny"}`, "Pubkey too small"},
		{"vm1", `{"image":"tiny","pubkey":"` + strings.Repeat("a", 1001) + `"}`, "Pubkey too long"},
		{"vm1", `{"image":"tiny","pubkey":"command=\"sh\" ` + alice.pub + `"}`, "The pubkey should be valid form"},
		{"vm1", `{"image":"tiny","pubkey":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdyiyYhYUbrLFd8"}`, "could not be parsed as an authorized key"},
		{"vm1", `{"image":"plan9","pubkey":` + key + `}`, "No such image: plan9"},
		{"vm1", `{"image":"jail","pubkey":` + key + `}`, "jails are not offered"},
		{"vm1", with(`,"cpus":17`), "cpus valid range: 1-16"},
		{"vm1", with(`,"cpus":"-1"`), "cpus valid range: 1-16"},
		{"vm1", with(`,"ram":"1q"`), "The ram should be valid form"},
		{"vm1", with(`,"imgsize":"0g"`), "The imgsize should be valid form"},
		{"vm1", with(`,"ram":"900g"`), "of memory wanted"},
		{"vm1", with(`,"imgsize":"900t"`), "want at most 64t"},
		{"vm1", with(`,"imgsize":"60t"`), "left to promise"},
		{"vm1", with(`,"host_hostname":"a/../b"`), "host_hostname"},
		{"vm1", with(`,"pkglist":"a;rm"`), "pkglist"},
		{"vm1", with(`,"callback":"file:///etc"`), "callback"},
		{"vm1", with(`,"extras":"\u0000"`), "NUL"},
		{"vm1", with(`,"extras":"a b"`), "The extras should be valid form"},
		{"vm1", with(`,"type":"docker"`), "The type should be bhyve or jail"},
		{"vm1", with(`,"vm_os_type":"Linux"`), "The vm_os_type should be valid form"},
		{"vm1", with(`,"recomendation":"a/b"`), "The recomendation should be valid form"},
		{"vm1", with(`,"email":"a@b\nBcc: c@d"`), "The email should be valid form"},
	} {
		r, err := http.Post(d.url+"/api/v1/create/"+x.path, "application/json", strings.NewReader(x.body))
		if err != nil {
			t.Errorf("%s %s: %v", x.path, x.body, err)
			continue
		}
		b, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		r.Body.Close()
		var a struct{ Message any }
		if x.message == "" { // it leads to another route, which does not take it
			if r.StatusCode/100 != 4 {
				t.Errorf("%s: %s %s", x.path, r.Status, b)
			}
			continue
		}
		if err := json.Unmarshal(b, &a); err != nil || r.StatusCode/100 != 4 && r.StatusCode != http.StatusInsufficientStorage || !strings.Contains(fmt.Sprint(a.Message), x.message) {
			t.Errorf("%s %s: %s %s, want %q", x.path, x.body, r.Status, b, x.message)
		}
	}
	for _, cid := range []string{"", "abc", strings.ToUpper(alice.cid), alice.cid + "0", "../../../../../../../../../../etc"} {
		for _, path := range []string{"status/vm1", "start/vm1", "stop/vm1", "destroy/vm1", "cluster", "k8scluster"} {
			if a, err := d.v1("GET", "/api/v1/"+path, cid, nil); err != nil || a["Message"] != "The cid should be valid form: ^[a-f0-9]{32}$" {
				t.Errorf("%s with the cid %q: %v %v", path, cid, a, err)
			}
		}
	}
	routes := []string{"/api/v1/create/vm1", "/api/v2/machines"}
	for _, path := range routes {
		// The server stops reading long before the end: the answer may get lost in
		// what is still on its way, which is what the kernels' buffers hold.
		z := &zeros{}
		q, err := http.NewRequest("POST", d.url+path, io.LimitReader(z, 1<<30))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("cid", alice.cid)
		q.Header.Set("Content-Type", "application/json")
		if r, err := http.DefaultClient.Do(q); err == nil {
			if r.StatusCode/100 != 4 {
				t.Errorf("%s takes 1 GiB: %s", path, r.Status)
			}
			r.Body.Close()
		}
		if n := z.drawn.Load(); n > 16<<20 {
			t.Errorf("%s takes %d MiB of 1 GiB", path, n>>20)
		}
	}
	t.Run("slow body", func(t *testing.T) {
		var all sync.WaitGroup
		defer all.Wait()
		for _, path := range routes {
			for _, drips := range []bool{false, true} {
				all.Go(func() { d.slowBody(t, path, alice.cid, drips) })
			}
		}
	})
	d.expectClean(t)
}

// slowBody sends half a body and then nothing, or a byte a second: a client is
// answered when its time is over, not when it is done.
func (d *skepd) slowBody(t *testing.T, path, cid string, drips bool) {
	const limit = 30 * time.Second // of the server, for a whole request
	c, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	begin := time.Now()
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: a\r\ncid: %s\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", path, cid)
	if drips {
		go func() {
			for err := error(nil); err == nil; time.Sleep(time.Second) {
				_, err = c.Write([]byte{' '})
			}
		}()
	}
	_ = c.SetReadDeadline(begin.Add(slow * (limit + 15*time.Second)))
	a, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Errorf("%s, half a body, dripping %v: no answer after %v: %v", path, drips, time.Since(begin), err)
		return
	}
	a.Body.Close()
	if a.StatusCode/100 != 4 {
		t.Errorf("%s, half a body, dripping %v: %s", path, drips, a.Status)
	}
}

// A guest that does not hear its power button is ended by force, and says so.
func TestStopByForceInTheEnd(t *testing.T) {
	d := startDaemon(t)
	alice := newIdentity(t, "alice")
	c := d.client(t, alice.cid)
	if _, err := c.Create(t.Context(), wire.Create{Name: "vm1", Image: "deaf", Memory: 96 << 20, Disk: 16 << 20, Keys: []string{alice.pub}}); err != nil {
		t.Fatal(err)
	}
	waitState(t, c, "vm1", "running", time.Minute)
	for end := time.Now().Add(3 * time.Minute); !strings.Contains(consoleTail(c, "vm1"), "@@ READY"); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the guest does not come up:\n%s", consoleTail(c, "vm1"))
		}
	}
	d.expectWorkers(t, 1)
	const limit = 5 * time.Second
	begin := time.Now()
	s, err := c.Stop(t.Context(), "vm1", client.StopOptions{Timeout: limit})
	if err != nil || s.State != "stopped" || !strings.Contains(s.Reason, "force") {
		t.Errorf("%+v %v", s, err)
	}
	if took := time.Since(begin); took < limit {
		t.Errorf("ended after %v, before its time", took)
	}
	if err := c.Destroy(t.Context(), "vm1"); err != nil {
		t.Fatal(err)
	}
	d.expectClean(t)
}
