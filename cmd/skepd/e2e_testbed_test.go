// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && (linux || guests)

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/api/client"
	"github.com/skepvm/skep/api/wire"
)

// The main job, through the front door: a Debian cloud image, the JSON of the
// MyBee article, ssh into the guest. Everything runs on the testbed's KVM or bhyve.

// v1 calls a route of version 1.
func (d *skepd) v1(method, path, cid string, body any) (map[string]any, error) {
	var b bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&b).Encode(body); err != nil {
			return nil, err
		}
	}
	r, err := http.NewRequest(method, d.url+path, &b)
	if err != nil {
		return nil, err
	}
	r.Header.Set("cid", cid)
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	out := map[string]any{}
	return out, json.NewDecoder(io.LimitReader(a.Body, 1<<20)).Decode(&out)
}

// waitState polls the status of version 2.
func waitState(t *testing.T, c *client.Client, name, state string, within time.Duration) wire.Machine {
	t.Helper()
	end := time.Now().Add(slow * within)
	for {
		m, err := c.Machine(t.Context(), name)
		if err == nil && m.State == state {
			return m
		}
		if time.Now().After(end) {
			t.Fatalf("%s is not %s after %v: %+v %v\nconsole:\n%s", name, state, within, m, err, consoleTail(c, name))
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func consoleTail(c *client.Client, name string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	b, err := c.Log(ctx, name)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4096):])
}

func TestCloudImageToSSH(t *testing.T) {
	d := startDaemon(t)
	alice, bob := newIdentity(t, "alice"), newIdentity(t, "bob")
	ca := d.client(t, alice.cid)

	// The article's request, with its strings.
	a, err := d.v1("POST", "/api/v1/create/vm1", "", map[string]any{
		"type": "bhyve", "imgsize": "6g", "ram": "512m", "cpus": "1", "img": "debian12", "pubkey": alice.pub, "host_hostname": "hive-one",
	})
	if err != nil || a["id"] != "vm1" {
		t.Fatal(a, err)
	}
	// Pending until it runs, with steps that only go forward.
	last, pending := -1.0, 0
	for end := time.Now().Add(slow * 5 * time.Minute); ; {
		s, err := d.v1("GET", "/api/v1/status/vm1", alice.cid, nil)
		if err != nil {
			t.Fatal(err)
		}
		if s["status"] != "pending" {
			if s["is_power_on"] != true || s["ssh_host"] == "" {
				t.Fatal(s)
			}
			break
		}
		p, _ := s["progress"].(float64)
		if p < last {
			t.Errorf("progress went back from %v to %v", last, p)
		}
		last = p
		pending++
		if time.Now().After(end) {
			t.Fatalf("still pending: %v", s)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if pending == 0 || last <= 0 {
		t.Errorf("%d times pending, at last with a progress of %v", pending, last)
	}
	m := waitState(t, ca, "vm1", "running", time.Minute)
	t.Logf("created and running; logging in to %s", m.Address)
	g := d.login(t, ca, m, alice)
	t.Log("logged in")
	d.expectWorkers(t, 1)
	g.cloudInitDone()
	t.Log("cloud-init done")
	g.expectExactly("hostname", "hive-one")
	g.expectExactly("nproc", "1")
	g.expect("ip -4 -o addr show scope global", m.Address+"/")
	g.expectExactly("lsblk -bdno SIZE /dev/vda", fmt.Sprint(6<<30))
	g.expectExactly("df -B1G --output=size / | tail -1", "6") // cloud-init grew the file system

	t.Run("another's vm1", func(t *testing.T) {
		g := g.in(t)
		// Somebody else's vm1 is another machine, with an address and a user-data
		// file of their own.
		cb := d.client(t, bob.cid)
		userData := "#cloud-config\nssh_authorized_keys: [" + bob.pub + "]\nruncmd: [[sh, -c, 'echo was here >/etc/bob']]\n"
		if b, err := cb.Create(t.Context(), wire.Create{Name: "vm1", Image: "debian12", Disk: 6 << 30, Memory: 512 << 20, Address: "10.177.0.77", UserData: userData}); err != nil || b.Name != "vm1" {
			t.Fatal(b, err)
		}
		// Two at once are slow in emulation: the rest is about alice's.
		defer func() {
			if err := cb.Destroy(context.Background(), "vm1"); err != nil {
				t.Error(err)
			}
		}()
		mb := waitState(t, cb, "vm1", "running", time.Minute)
		if mb.Address != "10.177.0.77" || mb.ID == m.ID || mb.MAC == m.MAC {
			t.Errorf("not the address that was asked for, or something shared: %+v %+v", m, mb)
		}
		gb := d.login(t, cb, mb, bob)
		gb.expectExactly("hostname", "vm1")
		gb.cloudInitDone()
		gb.expectExactly("cat /etc/bob", "was here")
		gb.expect("ip -4 -o addr show scope global", "10.177.0.77/")
		d.expectWorkers(t, 2)
		// The other's key does not open it.
		if _, err := dialSSH(mb.Address, mb.User, alice, 5*time.Second); err == nil {
			t.Error("alice's key opens bob's machine")
		}
		// Guests talk.
		gb.expectExactly("ping -c3 -i0.2 -W2 "+m.Address+" | grep -c 'bytes from'", "3")
		sum := strings.Fields(g.run("dd if=/dev/urandom of=/tmp/r bs=1M count=16 2>/dev/null; sha256sum </tmp/r"))[0]
		g.run("nohup python3 -m http.server -d /tmp 8000 >/dev/null 2>&1 &")
		fetch := "import urllib.request,hashlib;print(hashlib.sha256(urllib.request.urlopen('http://" + m.Address + ":8000/r').read()).hexdigest())"
		gb.expectExactly(`for i in $(seq 60); do python3 -c "`+fetch+`" 2>/dev/null && exit 0; sleep 1; done; exit 1`, sum)
		if _, err := cb.Stop(t.Context(), "vm1", client.StopOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("fstrim returns space", func(t *testing.T) {
		if !holes {
			t.Log("this system's file system cannot punch holes")
			return
		}
		g := g.in(t)
		disk := d.diskFile(t, m.ID)
		g.run("sudo dd if=/dev/urandom of=/big bs=1M count=256 conv=fsync 2>/dev/null")
		full := allocated(t, disk)
		g.run("sudo rm /big; sudo sync; sudo fstrim /")
		if after := allocated(t, disk); after > full-200<<20 {
			t.Errorf("allocated %d before fstrim, %d after", full, after)
		}
	})
	t.Run("fio verifies", func(t *testing.T) {
		// Requests of mixed sizes, many at a time, flushes between them, and
		// discards of what is free meanwhile.
		out := g.in(t).run("(for i in 1 2 3 4; do sudo fstrim /; sleep 1; done) & " +
			"fio --name=v --directory=/var/tmp --size=16m --rw=randwrite --bssplit=4k/50:16k/30:64k/15:256k/5 --ioengine=libaio --iodepth=16 --direct=1 --fsync=16" +
			" --verify=crc32c --verify_fatal=1 --verify_state_save=0 --minimal && wait && echo verified")
		if !strings.HasSuffix(strings.TrimSpace(out), "verified") {
			t.Error(out)
		}
	})
	t.Run("daemon killed", func(t *testing.T) {
		g := g.in(t)
		up := g.bootID()
		d.kill(t, syscall.SIGKILL)
		d.start(t)
		if m2 := waitState(t, ca, "vm1", "running", 30*time.Second); m2.ID != m.ID || m2.Address != m.Address {
			t.Fatalf("%+v", m2)
		}
		d.expectWorkers(t, 1)
		if now := g.bootID(); now != up {
			t.Errorf("the guest booted anew: %s, then %s", up, now)
		}
		ctx, cancel := context.WithTimeout(t.Context(), slow*time.Minute)
		defer cancel()
		line, err := ca.Console(ctx, "vm1")
		if err != nil {
			t.Fatal(err)
		}
		defer line.Close()
		// The prompt is in the history; a word that nobody has typed yet comes
		// back only from a guest that hears us.
		word := fmt.Sprintf("w%x", time.Now().UnixNano())
		if _, err := io.WriteString(line, word+"\r"); err != nil {
			t.Fatal(err)
		}
		readUntil(t, line, word)
		if _, err := io.WriteString(line, "\r"); err != nil { // it asks for a password now
			t.Fatal(err)
		}
	})
	t.Run("reboot in the guest", func(t *testing.T) {
		before := g.in(t).bootID()
		g.in(t).runLoose("sudo systemctl reboot")
		g = d.relogin(t, ca, m, alice, before)
		if now, err := ca.Machine(t.Context(), "vm1"); err != nil || now.Resets != 1 {
			t.Errorf("%d resets: the reboot was not in place (%v)", now.Resets, err)
		}
	})
	t.Run("pause and resume", func(t *testing.T) {
		g := g.in(t)
		busy := strings.TrimSpace(g.run("sh -c 'while :; do :; done' </dev/null >/dev/null 2>&1 & echo $!"))
		if _, err := ca.Pause(t.Context(), "vm1"); err != nil {
			t.Fatal(err)
		}
		long := time.After(10 * time.Second) // twice what the clock may be off by
		if _, err := dialSSH(m.Address, m.User, alice, 2*time.Second); err == nil {
			t.Error("a paused machine answers")
		}
		<-long
		if _, err := ca.Resume(t.Context(), "vm1"); err != nil {
			t.Fatal(err)
		}
		g.run("kill " + busy) // over the same connection
		if off := g.clockOff(); off < -5*time.Second || off > 5*time.Second {
			t.Errorf("the guest's clock is off by %v", off)
		}
	})
	t.Run("stop, start, poweroff, destroy", func(t *testing.T) {
		s, err := ca.Stop(t.Context(), "vm1", client.StopOptions{Timeout: 150 * time.Second})
		if err != nil || s.State != "stopped" {
			t.Fatalf("%+v %v", s, err)
		}
		if strings.Contains(s.Reason, "force") {
			if slow == 1 {
				t.Fatalf("%+v", s)
			}
			t.Logf("the guest needs longer than the API waits: %s", s.Reason)
		}
		if _, err := ca.Start(t.Context(), "vm1"); err != nil {
			t.Fatal(err)
		}
		g := d.login(t, ca, m, alice)
		g.runLoose("sudo systemctl poweroff")
		waitState(t, ca, "vm1", "stopped", 4*time.Minute)
		if a, err := d.v1("GET", "/api/v1/destroy/vm1", alice.cid, nil); err != nil || a["Message"] != "destroy" {
			t.Fatal(a, err)
		}
		d.expectClean(t)
	})
}

// Fifty creates by four clients, mixed with destroys: tiny guests, real workers.
// Twenty where the host is slow, but for SKEP_SOAK.
func TestFiftyCreatesAtOnce(t *testing.T) {
	each := 13
	if slow > 1 && os.Getenv("SKEP_SOAK") == "" {
		each = 5
	}
	const poll = slow * 500 * time.Millisecond // twenty and more that ask keep a slow host busy
	d := startDaemon(t)
	var ids [4]identity
	for i := range ids {
		ids[i] = newIdentity(t, fmt.Sprint("client", i))
	}
	var g sync.WaitGroup
	errs := make(chan error, 200)
	began := time.Now()
	for i := range ids {
		c := d.client(t, ids[i].cid)
		for n := range each {
			g.Go(func() {
				name := fmt.Sprintf("m%d", n)
				ctx := context.Background()
				for try := range 120 {
					_, err := c.Create(ctx, wire.Create{Name: name, Image: "tiny", Memory: 96 << 20, Disk: 16 << 20, Keys: []string{ids[i].pub}})
					if err == nil {
						break
					}
					var ae *client.Error
					if !asError(err, &ae) || ae.Status != http.StatusInsufficientStorage || try == 119 {
						errs <- err
						return
					}
					time.Sleep(poll) // the host is full until others are destroyed
				}
				for range 240 {
					m, err := c.Machine(ctx, name)
					if err != nil {
						errs <- err
						return
					}
					if m.State == "failed" {
						errs <- fmt.Errorf("%s: %s", name, m.Progress.Error)
						return
					}
					if m.State == "running" {
						t.Logf("%s of client %d runs after %v", name, i, time.Since(began).Round(time.Second))
						break
					}
					time.Sleep(poll)
				}
				if n%2 == 0 {
					if err := c.Destroy(ctx, name); err != nil {
						errs <- err
					}
				}
			})
		}
	}
	g.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	all, err := d.operator(t).Machines(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := 4 * (each / 2); len(all) != want {
		t.Errorf("%d machines are left, want %d", len(all), want)
	}
	seen := map[string]string{}
	for _, m := range all {
		for _, k := range []string{m.Address, m.MAC, m.ID} {
			if other := seen[k]; other != "" {
				t.Errorf("%s and %s share %s", other, m.Name, k)
			}
			seen[k] = m.Namespace + "/" + m.Name
		}
	}
	d.expectTaps(t, len(all))
	for i := range ids {
		c := d.client(t, ids[i].cid)
		for n := 1; n < each; n += 2 {
			if err := c.Destroy(t.Context(), fmt.Sprintf("m%d", n)); err != nil {
				t.Error(err)
			}
		}
	}
	d.expectClean(t)
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}
