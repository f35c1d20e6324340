// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skepvm/skep"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "skepd.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfig(t *testing.T) {
	path := write(t, `
store: dir:/srv/skep
listen: ["127.0.0.1:1", "[::1]:2"]
catalogue: images.yaml
network: {bridge: br7, address: 10.9.0.1/16, first: 10.9.1.0, last: 10.9.2.0, dns: [9.9.9.9], mtu: 9000}
limits: {memory: 3g, disk_overcommit: 1.5, machines: 10, per_namespace: 3, cpus: 4}
flavors: [{name: tiny, cpus: 1, memory: 128m, disk: 1g}]
log: {level: warn, format: json}
`)
	c, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.override(config{Store: "dir:/flag", Network: networkConfig{Bridge: "br8"}}); err != nil {
		t.Fatal(err)
	}
	h, err := c.host(nil)
	if err != nil {
		t.Fatal(err)
	}
	n := h.Network
	if h.Store != "dir:/flag" || n.Bridge != "br8" || n.Address != netip.MustParsePrefix("10.9.0.1/16") || n.MTU != 9000 || len(n.DNS) != 1 ||
		n.First.String() != "10.9.1.0" || h.Limits.Memory != 3*skep.GiB || h.Limits.CPUs != 4 || h.Flavors[0].Memory != 128*skep.MiB ||
		h.Catalogue != filepath.Join(filepath.Dir(path), "images.yaml") || len(c.Listen) != 2 {
		t.Errorf("read %+v", h)
	}
	if _, err := c.logger(io.Discard); err != nil {
		t.Error(err)
	}
}

// TestShippedConfig: the file in dist is one, and says nothing but defaults.
func TestShippedConfig(t *testing.T) {
	c, err := loadConfig("../../dist/skepd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.override(config{}); err != nil {
		t.Fatal(err)
	}
	h, err := c.host(nil)
	if err != nil {
		t.Fatal(err)
	}
	if h.Store != defaultStore || c.Listen[0] != defaultListen || h.Network.Bridge != "skep0" || h.Network.Address.String() != "10.77.0.1/24" {
		t.Errorf("read %+v", h)
	}
}

func TestBadConfig(t *testing.T) {
	for name, text := range map[string]string{
		"an unknown word":  "stor: dir:/x",
		"no YAML":          "{",
		"a bad size":       "limits: {memory: lots}",
		"a bad address":    "network: {address: here}",
		"a bad range":      "network: {first: here}",
		"a bad DNS server": "network: {dns: [here]}",
		"a bad level":      "log: {level: loud}",
		"a bad format":     "log: {format: xml}",
		"missing keys":     "allowed_keys: /none",
	} {
		c, err := loadConfig(write(t, text))
		if err == nil {
			_, err = c.host(nil)
		}
		if err == nil {
			_, err = c.logger(io.Discard)
		}
		if err == nil {
			_, err = c.allowedKeys()
		}
		if err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if _, err := loadConfig("/none/skepd.yaml"); err == nil {
		t.Error("a file that is named and missing was taken")
	}
}

func TestAllowedKeys(t *testing.T) {
	c := config{AllowedKeys: write(t, "# who may\nssh-ed25519 AAAA a\n\nssh-rsa BBBB b\r\n")}
	keys, err := c.allowedKeys()
	if err != nil || strings.Join(keys, "|") != "ssh-ed25519 AAAA a|ssh-rsa BBBB b" {
		t.Errorf("%q, %v", keys, err)
	}
	c.AllowedKeys = write(t, "")
	if keys, err := c.allowedKeys(); err != nil || keys == nil {
		t.Errorf("an empty file must allow nobody: %v, %v", keys, err)
	}
}

// TestServe runs the daemon without a network: it answers on both listeners,
// keeps a second one out, and ends when it is told to.
func TestServe(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "skepd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c := config{
		Store: "dir:" + filepath.Join(dir, "store"), RunDir: filepath.Join(dir, "run"), Listen: []string{addr},
		Network: networkConfig{Disabled: true},
	}
	ctx, cancel := context.WithCancel(t.Context())
	var log bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- serve(ctx, c, &log) }()
	sock := filepath.Join(dir, "run", "api.sock")
	unix := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sock)
	}}}
	for name, get := range map[string]func() (*http.Response, error){
		"TCP":  func() (*http.Response, error) { return http.Get("http://" + addr + "/images") },
		"unix": func() (*http.Response, error) { return unix.Get("http://skepd/images") },
	} {
		var resp *http.Response
		for range 500 {
			if resp, err = get(); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", name, resp.Status)
		}
		resp.Body.Close()
	}
	unix.CloseIdleConnections()
	http.DefaultClient.CloseIdleConnections()
	if fi, err := os.Stat(sock); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the operator's socket: %v, %v", fi, err)
	}
	if err := serve(ctx, c, io.Discard); err == nil || !strings.Contains(err.Error(), "in use by another daemon") {
		t.Errorf("a second daemon: %v", err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it did not end")
	}
}
