// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && cloud && (linux || guests)

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/api/client"
	"github.com/skepvm/skep/api/wire"
)

// freebsdImage is the entry of a catalogue for the FreeBSD cloud image in the
// directory that SKEP_FREEBSD_CLOUD names: "disk.raw.zst", with nuageinit(7) and
// sshd(8), and its "kernel". The tag cloud asks for these tests.
func freebsdImage(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("SKEP_FREEBSD_CLOUD")
	if dir == "" {
		t.Fatal("SKEP_FREEBSD_CLOUD does not name the directory of a FreeBSD cloud image")
	}
	// hw.use_xsave: see package vmm/boot's tests.
	return fmt.Sprintf(`- {name: freebsd, os: freebsd, profile: cloud-FreeBSD-ufs-x64-15, user: freebsd, min_disk: 2400m, min_ram: 256m,
   format: raw, source: %s/disk.raw.zst, kernel: {source: %s/kernel}, cmdline: "vfs.root.mountfrom=ufs:/dev/gpt/rootfs hw.use_xsave=0"}
`, dir, dir)
}

// bootTime changes with every boot.
func (g *guest) bootTime() string {
	g.t.Helper()
	return strings.TrimSpace(g.run("sysctl -n kern.boottime"))
}

// again waits for a login after another boot than that at before.
func (d *skepd) again(t *testing.T, c *client.Client, m wire.Machine, id identity, before string) *guest {
	t.Helper()
	for range 120 {
		g := d.login(t, c, m, id)
		if now, err := g.exec("sysctl -n kern.boottime"); err == nil && strings.TrimSpace(now) != before {
			return g
		}
		g.c.Close()
		time.Sleep(time.Second)
	}
	t.Fatalf("%s does not boot again; console:\n%s", m.Name, consoleTail(c, m.Name))
	return nil
}

// The main job with a guest of FreeBSD: create, ssh, reboot, stop, start and
// destroy through the API.
func TestFreeBSDCloudImage(t *testing.T) {
	d := startDaemon(t, freebsdImage(t))
	ann := newIdentity(t, "ann")
	c := d.client(t, ann.cid)
	began := time.Now()
	step := func(what string) { t.Logf("%s %s", time.Since(began).Round(time.Second), what) }

	if a, err := d.v1("POST", "/api/v1/create/vm1", "", map[string]any{
		"type": "bhyve", "imgsize": "4g", "ram": "512m", "cpus": "1", "img": "freebsd", "pubkey": ann.pub, "host_hostname": "hive-one",
	}); err != nil || a["id"] != "vm1" {
		t.Fatal(a, err)
	}
	m := waitState(t, c, "vm1", "running", 5*time.Minute)
	step("running")
	g := d.login(t, c, m, ann)
	step("logged in")
	g.expect("id -un", "freebsd")
	g.expect("hostname", "hive-one")
	g.expect("sysctl -n hw.ncpu", "1")
	g.expect("ifconfig vtnet0 inet", m.Address+" ")
	g.expect("netstat -rn -f inet", "default ")
	g.expect("sysctl -n kern.geom.confxml", fmt.Sprintf("<mediasize>%d</mediasize>", 4<<30))
	// growfs(7) gave the root what the image had not.
	g.expect(`df -m / | awk 'NR==2 {print ($2 > 2200 ? "grown" : "as it was: " $2)}'`, "grown")
	g.expect("test -w / || echo only root writes there", "only root")

	t.Run("daemon killed", func(t *testing.T) {
		g := g.in(t)
		up := g.bootTime()
		d.kill(t, unix.SIGKILL)
		d.start(t)
		if again := waitState(t, c, "vm1", "running", 30*time.Second); again.ID != m.ID || again.Address != m.Address {
			t.Fatalf("%+v", again)
		}
		if now := g.bootTime(); now != up {
			t.Errorf("the guest booted anew: %s, then %s", up, now)
		}
	})
	t.Run("reboot", func(t *testing.T) {
		g := g.in(t)
		before := g.bootTime()
		g.run("echo kept >kept; sync")
		g.c.Close()
		if s, err := c.Reboot(t.Context(), "vm1", client.StopOptions{Timeout: 150 * time.Second}); err != nil || s.State != "running" {
			t.Fatalf("%+v %v", s, err)
		}
		step("rebooted")
		g = d.again(t, c, m, ann, before)
		step("logged in")
		g.expect("cat kept", "kept")
	})
	t.Run("stop, start, destroy", func(t *testing.T) {
		if s, err := c.Stop(t.Context(), "vm1", client.StopOptions{Timeout: 150 * time.Second}); err != nil || s.State != "stopped" || strings.Contains(s.Reason, "force") {
			t.Fatalf("%+v %v; console:\n%s", s, err, consoleTail(c, "vm1"))
		}
		step("stopped")
		if _, err := c.Start(t.Context(), "vm1"); err != nil {
			t.Fatal(err)
		}
		d.login(t, c, m, ann).expect("cat kept", "kept")
		step("started, logged in")
		if a, err := d.v1("GET", "/api/v1/destroy/vm1", ann.cid, nil); err != nil || a["Message"] != "destroy" {
			t.Fatal(a, err)
		}
		d.expectClean(t)
	})
}

// A user-data file of the caller's, two processors, an address that was asked for;
// the guest reboots and powers off by itself.
func TestFreeBSDUserData(t *testing.T) {
	d := startDaemon(t, freebsdImage(t))
	ann := newIdentity(t, "ann")
	c := d.client(t, ann.cid)
	userData := "#cloud-config\nhostname: hive-two\nusers:\n- name: ann\n  groups: operator\n  shell: /bin/sh\n  ssh_authorized_keys: ['" + ann.pub + "']\n" +
		"runcmd: ['echo was here >/etc/ann']\n"
	if _, err := c.Create(t.Context(), wire.Create{Name: "vm2", Image: "freebsd", CPUs: 2, Disk: 3 << 30, Memory: 512 << 20, Address: "10.177.0.77", UserData: userData}); err != nil {
		t.Fatal(err)
	}
	m := waitState(t, c, "vm2", "running", 5*time.Minute)
	m.User = "ann"
	g := d.login(t, c, m, ann)
	t.Log("logged in")
	g.expect("hostname", "hive-two")
	g.expect("sysctl -n hw.ncpu", "2")
	g.expect("ifconfig vtnet0 inet", "10.177.0.77 ")
	g.expect("for i in $(jot 60); do [ ! -e /etc/ann ] || break; sleep 1; done; cat /etc/ann", "was here")
	before := g.bootTime()
	// Operators may; the connection may end before the command does.
	out, err := g.execWithin(30*time.Second, "shutdown -r now")
	t.Logf("shutdown: %q, %v", out, err)
	g.c.Close()
	g = d.again(t, c, m, ann, before)
	t.Log("rebooted by itself, logged in")
	if now, err := c.Machine(t.Context(), "vm2"); err != nil || now.Resets != 1 {
		t.Errorf("%d resets: the reboot was not in place (%v)", now.Resets, err)
	}
	g.runLoose("shutdown -p now")
	waitState(t, c, "vm2", "stopped", 4*time.Minute)
	t.Log("powered off by itself")
	if err := c.Destroy(t.Context(), "vm2"); err != nil {
		t.Fatal(err)
	}
	d.expectClean(t)
}
