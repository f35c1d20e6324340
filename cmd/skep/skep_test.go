// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/skepvm/skep/api/wire"
)

// host answers as skepd would for one machine, vm1.
type host struct {
	mu     sync.Mutex
	m      wire.Machine
	polls  int // of the status while it is being created
	cids   map[string]bool
	create wire.Create
	asked  []string // of the machine: verb and query

	line *guestLine // what the console shows
}

// after is the state that a verb leaves a machine in.
var after = map[string]string{"start": "running", "stop": "stopped", "reboot": "running", "reset": "running", "pause": "paused", "resume": "running"}

func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/machines/vm1/console") {
		h.line.serve(w, r) // for long, so not under the lock
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cids[r.Header.Get("cid")] = true
	reply := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	if verb, ok := strings.CutPrefix(r.URL.Path, "/api/v2/machines/vm1/"); ok && r.Method == "POST" && after[verb] != "" {
		h.asked = append(h.asked, strings.TrimSuffix(verb+"?"+r.URL.RawQuery, "?"))
		h.m.State = after[verb]
		reply(h.m)
		return
	}
	switch r.Method + " " + strings.TrimPrefix(r.URL.Path, "/api/v2") {
	case "POST /machines":
		_ = json.NewDecoder(r.Body).Decode(&h.create)
		h.m.State, h.m.Progress = "creating", &wire.Progress{Text: "claimed (5%)"}
		w.WriteHeader(http.StatusAccepted)
		reply(h.m)
	case "GET /machines":
		reply([]wire.Machine{h.m})
	case "GET /machines/vm1":
		if h.m.State == "creating" {
			if h.polls++; h.polls == 2 {
				h.m.State, h.m.Progress = "running", nil
			}
		}
		reply(h.m)
	case "GET /machines/vm1/log":
		_, _ = io.WriteString(w, "booted\r\nlogin: ")
	case "GET /images":
		reply([]wire.Image{{Name: "debian12", OS: "linux", MinDisk: 2 << 30, User: "debian", Warm: true}})
	case "POST /images/debian12/warm":
		_, _ = io.WriteString(w, "data: {\"done\":1048576,\"total\":2097152}\n\ndata: {\"done\":2097152,\"total\":2097152,\"ready\":true}\n\n")
	case "DELETE /machines/vm1":
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusNotFound)
		reply(map[string]any{"detail": "machine: not found"})
	}
}

// keyPair writes an SSH key pair and gives the public file's path and the key.
func keyPair(t *testing.T) (string, ssh.Signer) {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "test")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "id")
	if err := errors.Join(os.WriteFile(path, pem.EncodeToMemory(block), 0o600), os.WriteFile(path+".pub", ssh.MarshalAuthorizedKey(signer.PublicKey()), 0o600)); err != nil {
		t.Fatal(err)
	}
	return path + ".pub", signer
}

type cli struct {
	t        *testing.T
	h        *host
	url, key string
	signer   ssh.Signer
	sshPort  string
}

func newCLI(t *testing.T) *cli {
	h := &host{cids: map[string]bool{}, m: wire.Machine{ID: strings.Repeat("a", 32), Name: "vm1", State: "running", Image: "debian12", CPUs: 2, Memory: 1 << 30, Disk: 10 << 30, Address: "127.0.0.1", User: "debian", Created: time.Now()}}
	ts := httptest.NewServer(h)
	t.Cleanup(ts.Close)
	key, signer := keyPair(t)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("SSH_AUTH_SOCK", "")
	t.Setenv("SSH_KEY", "")
	return &cli{t, h, ts.URL, key, signer, "22"}
}

func (c *cli) run(stdin string, args ...string) (stdout, stderr string, err error) {
	var out, errw bytes.Buffer
	a := newApp(strings.NewReader(stdin), &out, &errw)
	a.sshPort = c.sshPort
	root := a.root()
	root.SetArgs(append([]string{"--host", c.url, "--key", c.key}, args...))
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	err = root.ExecuteContext(ctx)
	return out.String(), errw.String(), err
}

func TestCommands(t *testing.T) {
	c := newCLI(t)
	for _, x := range []struct {
		args []string
		want string
	}{
		{[]string{"create", "vm1", "--image", "debian12", "--ram", "1g", "--disk", "10g", "--package", "mc"}, "vm1 is running at 127.0.0.1: skep ssh vm1\n"},
		{[]string{"list"}, "vm1   running  debian12  2     1g   10g   127.0.0.1  0s"},
		{[]string{"list", "--json"}, `"memory": 1073741824`},
		{[]string{"status", "vm1"}, "size     2 vCPU, 1g memory, 10g disk"},
		{[]string{"image", "list"}, "debian12  linux   2g        debian  yes"},
		{[]string{"image", "fetch", "debian12"}, "debian12 is ready"},
		{[]string{"stop", "vm1"}, "vm1 is stopped\n"},
		{[]string{"start", "vm1"}, "vm1 is running\n"},
		{[]string{"reboot", "vm1", "--timeout", "20s"}, "vm1 is running\n"},
		{[]string{"reset", "vm1"}, "vm1 is running\n"},
		{[]string{"pause", "vm1"}, "vm1 is paused\n"},
		{[]string{"resume", "vm1"}, "vm1 is running\n"},
		{[]string{"stop", "--force", "--json", "vm1"}, `"state": "stopped"`},
		{[]string{"log", "vm1"}, "booted\r\nlogin: "},
		{[]string{"destroy", "vm1"}, "vm1 is gone"},
		{[]string{"completion", "bash"}, "bash completion V2 for skep"},
		{[]string{"__complete", "status", ""}, "vm1\tstopped, debian12"},
	} {
		out, errs, err := c.run("", x.args...)
		if err != nil || !strings.Contains(out, x.want) {
			t.Errorf("%v: %v\n%s%s", x.args, err, out, errs)
		}
	}
	if got, want := strings.Join(c.h.asked, " "), "stop?timeout=90 start reboot?timeout=20 reset pause resume stop?force=true&timeout=90"; got != want {
		t.Errorf("the host was asked for %q, want %q", got, want)
	}
	pub, err := os.ReadFile(c.key)
	if err != nil {
		t.Fatal(err)
	}
	if want := wire.CID(strings.TrimSuffix(string(pub), "\n")); !c.h.cids[want] || len(c.h.cids) != 1 {
		t.Errorf("cids %v, want %s", c.h.cids, want)
	}
	if k := c.h.create.Keys; len(k) != 1 || k[0] != strings.TrimSpace(string(pub)) || c.h.create.Memory != 1<<30 {
		t.Errorf("%+v", c.h.create)
	}
}

func TestErrorsSayWhat(t *testing.T) {
	c := newCLI(t)
	for _, x := range []struct {
		args []string
		want string
	}{
		{[]string{"status", "none"}, "status of none: machine: not found"},
		{[]string{"start", "none"}, "start none: machine: not found"},
		{[]string{"stop", "none"}, "stop none: machine: not found"},
		{[]string{"reboot", "none"}, "reboot none: machine: not found"},
		{[]string{"pause", "none"}, "pause none: machine: not found"},
		{[]string{"resume", "none"}, "resume none: machine: not found"},
		{[]string{"log", "none"}, "log of none: machine: not found"},
		{[]string{"console", "none"}, "console of none: machine: not found"},
		{[]string{"console"}, "accepts 1 arg(s)"},
		{[]string{"create", "vm1"}, `required flag(s) "image" not set`},
		{[]string{"create", "vm1", "--image", "x", "--ram", "lots"}, `--ram: size "lots"`},
		{[]string{"create", "vm1", "--image", "x", "--user-data", "/nonexistent"}, "read the user-data"},
		{[]string{"list", "--key", "/nonexistent.pub"}, "read the SSH public key"},
		{[]string{"list", "--host", "ftp://x"}, "want http://HOST:PORT"},
		{[]string{"list", "--host", "http://127.0.0.1:1"}, "is skepd running?"},
	} {
		if _, _, err := c.run("", x.args...); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%v: %v, want %q", x.args, err, x.want)
		}
	}
}

func TestMan(t *testing.T) {
	dir := t.TempDir()
	c := newCLI(t)
	if _, _, err := c.run("", "man", dir); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "skep-create.1")); err != nil || !bytes.Contains(b, []byte("image")) {
		t.Error(err)
	}
}

// sshd is a server that lets one key in and runs "echo X" and "exit N".
func sshd(t *testing.T, hostKey ssh.Signer, allowed ssh.PublicKey) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if bytes.Equal(k.Marshal(), allowed.Marshal()) {
			return nil, nil
		}
		return nil, errors.New("unknown key")
	}}
	cfg.AddHostKey(hostKey)
	var g sync.WaitGroup
	t.Cleanup(func() { l.Close(); g.Wait() })
	g.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			g.Go(func() { serveSSH(nc, cfg) })
		}
	})
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

func serveSSH(nc net.Conn, cfg *ssh.ServerConfig) {
	defer nc.Close()
	_, chans, reqs, err := ssh.NewServerConn(nc, cfg)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(reqs)
	for nch := range chans {
		ch, reqs, err := nch.Accept()
		if err != nil {
			return
		}
		for r := range reqs {
			_ = r.Reply(r.Type == "exec", nil)
			if r.Type != "exec" {
				continue
			}
			var cmd struct{ Line string }
			_ = ssh.Unmarshal(r.Payload, &cmd)
			status := struct{ N uint32 }{}
			if text, ok := strings.CutPrefix(cmd.Line, "echo "); ok {
				_, _ = io.WriteString(ch, text)
			} else {
				status.N = 3
			}
			_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(&status))
			ch.Close()
		}
	}
}

func TestSSH(t *testing.T) {
	c := newCLI(t)
	_, hostKey := keyPair(t)
	c.sshPort = sshd(t, hostKey, c.signer.PublicKey())
	if out, _, err := c.run("", "ssh", "vm1", "--", "echo", "hello"); err != nil || out != "hello" {
		t.Fatal(out, err)
	}
	_, _, err := c.run("", "ssh", "vm1", "--", "false")
	var status exitStatus
	if !errors.As(err, &status) || status != 3 {
		t.Fatal(err)
	}
	// Another host key under the same machine id is somebody else.
	_, other := keyPair(t)
	c.sshPort = sshd(t, other, c.signer.PublicKey())
	if _, _, err := c.run("", "ssh", "vm1", "--", "echo", "x"); !errors.Is(err, errHostKey) {
		t.Fatal(err)
	}
	// A new machine of the same name has another id.
	c.h.m.ID = strings.Repeat("b", 32)
	if _, _, err := c.run("", "ssh", "vm1", "--", "echo", "x"); err != nil {
		t.Fatal(err)
	}
	c.h.m.State = "stopped"
	if _, _, err := c.run("", "ssh", "vm1", "--", "echo", "x"); err == nil || !strings.Contains(err.Error(), "skep start vm1") {
		t.Fatal(err)
	}
}
