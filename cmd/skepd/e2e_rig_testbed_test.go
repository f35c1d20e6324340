// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && (linux || guests)

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/skepvm/skep"
	"github.com/skepvm/skep/api/client"
	"github.com/skepvm/skep/api/wire"
	"github.com/skepvm/skep/internal/testguest"
	"github.com/skepvm/skep/netif"
)

// The test binary is also the daemon and, through it, the worker.
func TestMain(m *testing.M) {
	skep.MaybeWorker()
	if os.Getenv("SKEPD_TEST_DAEMON") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func asError[T error](err error, target *T) bool { return errors.As(err, target) }

// skepd is a daemon of the test's own: a store, a bridge and sockets that no
// other test shares.
type skepd struct {
	dir, url, socket, bridge string
	cmd                      *exec.Cmd
	log                      *os.File
	logins                   []*ssh.Client
	images                   []string
}

// startDaemon starts skepd with the images that all tests know and more, entries
// of a catalogue.
func startDaemon(t *testing.T, images ...string) *skepd {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "skepd-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "daemon.log"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	d := &skepd{dir: dir, url: "http://" + addr, socket: filepath.Join(dir, "run", "api.sock"), bridge: "skept" + strconv.Itoa(os.Getpid()%1000), log: log, images: images}
	d.start(t)
	t.Cleanup(func() {
		for _, l := range d.logins {
			l.Close()
		}
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("skepd's log:\n%s", b[max(0, len(b)-16384):])
		}
		op := d.operator(t)
		if list, err := op.Machines(context.Background()); err == nil {
			for _, m := range list {
				c := d.client(t, m.Namespace)
				_ = c.Destroy(context.Background(), m.Name)
			}
		}
		d.kill(t, syscall.SIGTERM)
		log.Close()
		os.RemoveAll(dir)
		c, err := netif.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Destroy(d.bridge); err != nil && !errors.Is(err, netif.ErrNotFound) {
			t.Error(err)
		}
	})
	return d
}

func (d *skepd) start(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d.cmd = exec.Command(self,
		"--store", "dir:"+filepath.Join(d.dir, "store"),
		"--run-dir", filepath.Join(d.dir, "run"),
		"--listen", strings.TrimPrefix(d.url, "http://"),
		"--socket", d.socket,
		"--bridge", d.bridge,
		"--network", "10.177.0.1/24",
		"--catalogue", d.catalogue(t),
	)
	d.cmd.Env = append(os.Environ(), "SKEPD_TEST_DAEMON=1")
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	op := d.operator(t)
	for range 300 {
		if _, err := op.Host(t.Context()); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	b, _ := os.ReadFile(d.log.Name())
	t.Fatalf("skepd does not answer:\n%s", b)
}

func (d *skepd) kill(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		t.Error(err)
	}
	_ = d.cmd.Wait() // a killed process reports that it was
}

func (d *skepd) client(t *testing.T, cid string) *client.Client {
	t.Helper()
	c, err := client.New(d.url, cid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (d *skepd) operator(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New("unix:"+d.socket, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// identity is a caller: an SSH key pair and the namespace that it names.
type identity struct {
	pub, cid string
	signer   ssh.Signer
}

func newIdentity(t *testing.T, comment string) identity {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	pub := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey()))) + " " + comment
	return identity{pub, wire.CID(pub), s}
}

func dialSSH(addr, user string, id identity, timeout time.Duration) (*ssh.Client, error) {
	nc, err := net.DialTimeout("tcp", net.JoinHostPort(addr, "22"), timeout)
	if err != nil {
		return nil, err
	}
	_ = nc.SetDeadline(time.Now().Add(max(timeout, slow*20*time.Second)))
	// The key was made a moment ago in the guest: there is nothing to compare it with.
	sc, chans, reqs, err := ssh.NewClientConn(nc, addr, &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(id.signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		nc.Close()
		return nil, err
	}
	_ = nc.SetDeadline(time.Time{})
	return ssh.NewClient(sc, chans, reqs), nil
}

// guest is a login in a machine.
type guest struct {
	t *testing.T
	c *ssh.Client
}

// login waits until the machine lets id in.
func (d *skepd) login(t *testing.T, c *client.Client, m wire.Machine, id identity) *guest {
	t.Helper()
	end := time.Now().Add(slow * 10 * time.Minute)
	for try := 1; ; try++ {
		s, err := dialSSH(m.Address, m.User, id, 3*time.Second)
		if err == nil {
			d.logins = append(d.logins, s)
			return &guest{t, s}
		}
		if time.Now().After(end) || try%20 == 0 && strings.Contains(consoleTail(c, m.Name), "end Kernel panic") {
			t.Fatalf("no login to %s at %s: %v\nconsole:\n%s", m.Name, m.Address, err, consoleTail(c, m.Name))
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// in is g for a subtest.
func (g *guest) in(t *testing.T) *guest { return &guest{t, g.c} }

// bootID changes with every boot.
func (g *guest) bootID() string {
	g.t.Helper()
	return strings.TrimSpace(g.run("cat /proc/sys/kernel/random/boot_id"))
}

// clockOff is how far the guest's clock is from ours.
func (g *guest) clockOff() time.Duration {
	g.t.Helper()
	ns, err := strconv.ParseInt(strings.TrimSpace(g.run("date +%s%N")), 10, 64)
	if err != nil {
		g.t.Fatal(err)
	}
	return time.Until(time.Unix(0, ns))
}

// relogin waits until the machine lets id in after another boot than before.
func (d *skepd) relogin(t *testing.T, c *client.Client, m wire.Machine, id identity, before string) *guest {
	t.Helper()
	for range 120 {
		g := d.login(t, c, m, id)
		// It may still be on its way down.
		if now, err := g.exec("cat /proc/sys/kernel/random/boot_id"); err == nil && strings.TrimSpace(now) != before {
			return g
		}
		g.c.Close()
		time.Sleep(time.Second)
	}
	t.Fatalf("%s does not boot again; console:\n%s", m.Name, consoleTail(c, m.Name))
	return nil
}

func (g *guest) exec(cmd string) (string, error) { return g.execWithin(slow*4*time.Minute, cmd) }

// execWithin runs a command and ends the connection when it takes longer: a
// session closed would still wait for the other side to agree, which one that
// was powered off never does.
func (g *guest) execWithin(limit time.Duration, cmd string) (string, error) {
	timer := time.AfterFunc(limit, func() { g.c.Close() })
	defer timer.Stop()
	s, err := g.c.NewSession()
	if err != nil {
		return "", err
	}
	defer s.Close()
	b, err := s.CombinedOutput(cmd)
	return string(b), err
}

// run runs a command that must succeed.
func (g *guest) run(cmd string) string {
	g.t.Helper()
	out, err := g.exec(cmd)
	if err != nil {
		g.t.Fatalf("in the guest: %s: %v: %s", cmd, err, out)
	}
	return out
}

// runLoose runs a command that may take the connection with it.
func (g *guest) runLoose(cmd string) {
	_, _ = g.execWithin(30*time.Second, cmd)
	g.c.Close()
	time.Sleep(2 * time.Second)
}

// expect runs a command whose output must have want in it.
func (g *guest) expect(cmd, want string) {
	g.t.Helper()
	if out := g.run(cmd); !strings.Contains(out, want) {
		g.t.Errorf("in the guest: %s: %q, want %q", cmd, out, want)
	}
}

// expectExactly is expect for an output that is want and nothing else.
func (g *guest) expectExactly(cmd, want string) {
	g.t.Helper()
	if out := strings.TrimSpace(g.run(cmd)); out != want {
		g.t.Errorf("in the guest: %s: %q, want %q and no more", cmd, out, want)
	}
}

// cloudInitDone waits for cloud-init and fails with its reasons.
func (g *guest) cloudInitDone() {
	g.t.Helper()
	out, err := g.execWithin(15*time.Minute, "cloud-init status --wait >/dev/null 2>&1; cloud-init status --long")
	if err != nil || !strings.Contains(out, "status: done") {
		why, _ := g.exec("cat /run/cloud-init/result.json; sudo grep -aE 'WARN|ERROR|Traceback|Error' /var/log/cloud-init.log | tail -20")
		g.t.Errorf("cloud-init: %v: %s\n%s", err, out, why)
	}
}

func readUntil(t *testing.T, r io.Reader, want string) {
	t.Helper()
	var got bytes.Buffer
	buf := make([]byte, 4096)
	for !strings.Contains(got.String(), want) {
		n, err := r.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			t.Fatalf("%q does not come: %v after %q", want, err, got.String())
		}
	}
}

// diskFile finds the disk of a machine in the store.
func (d *skepd) diskFile(t *testing.T, id string) string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(d.dir, "store", "machines", id, "disk*"))
	if err != nil || len(list) != 1 {
		t.Fatalf("disk of %s: %v %v", id, list, err)
	}
	return list[0]
}

// expectClean fails if anything of a destroyed machine is left.
func (d *skepd) expectClean(t *testing.T) {
	t.Helper()
	d.expectWorkers(t, 0)
	if list, _ := filepath.Glob(filepath.Join(d.dir, "store", "machines", "*")); len(list) != 0 {
		t.Errorf("files are left: %v", list)
	}
	d.expectTaps(t, 0)
	h, err := d.operator(t).Host(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if h.Machines != 0 || h.MemoryCommitted != 0 || h.AddressesFree != 253 {
		t.Errorf("the host still counts something: %+v", h)
	}
}

// expectWorkers fails if there is not one worker for each machine that runs.
func (d *skepd) expectWorkers(t *testing.T, machines int) {
	t.Helper()
	if w := d.workers(t); len(w) != machines {
		t.Errorf("the workers are %v, %d machines run", w, machines)
	}
}

// expectTaps fails if the bridge has not as many taps as there are machines that
// run: one lost, one too many, or one that two share.
func (d *skepd) expectTaps(t *testing.T, machines int) {
	t.Helper()
	c, err := netif.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	members, err := c.Members(d.bridge)
	if err != nil {
		t.Fatal(err)
	}
	taps := map[string]bool{}
	for _, m := range members {
		taps[m.Name] = true
	}
	if len(taps) != machines {
		t.Errorf("the bridge has the taps %v, there are %d machines", slices.Sorted(maps.Keys(taps)), machines)
	}
}

// catalogue writes the images that the tests use: the Debian cloud image of the
// testbed and the small guest on an empty disk, once deaf to its power button. The Debian image goes unchecked:
// hashing its 2 GiB takes minutes in emulation, and package image tests that.
func (d *skepd) catalogue(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/opt/skep/images/debian12.json")
	if err != nil {
		t.Fatal(err)
	}
	var meta struct{ Cmdline string }
	if err := json.Unmarshal(b, &meta); err != nil {
		t.Fatal(err)
	}
	files, err := testguest.Find()
	if err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(d.dir, "empty.raw")
	if err := os.WriteFile(empty, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(d.dir, "images.yaml")
	text := fmt.Sprintf(`images:
- {name: debian12, aliases: [debian], os: linux, profile: cloud-debian-x86-12, user: debian, min_disk: 2g, min_ram: 256m,
   format: raw, source: /opt/skep/images/debian12.raw,
   kernel: {source: /opt/skep/images/debian12.vmlinuz}, initrd: {source: /opt/skep/images/debian12.initrd}, cmdline: %q}
- {name: tiny, os: linux, profile: tiny, user: root, min_disk: 1m, min_ram: 64m, format: raw, source: %s,
   kernel: {source: %s}, initrd: {source: %s}, cmdline: %q}
- {name: deaf, os: linux, profile: deaf, user: root, min_disk: 1m, min_ram: 64m, format: raw, source: %s,
   kernel: {source: %s}, initrd: {source: %s}, cmdline: %q}
`, meta.Cmdline, empty, files.Kernel, files.Initrd, testguest.Cmdline(testguest.Serial),
		empty, files.Kernel, files.Initrd, testguest.Cmdline(testguest.Serial)+" skep.ignore-power") + strings.Join(d.images, "")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
