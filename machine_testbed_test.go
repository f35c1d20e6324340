// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && (linux || guests)

package skep

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// key is an SSH key of a test's own.
func key25519(t testing.TB) (ssh.Signer, string) {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return s, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey())))
}

// dial logs into a machine, which may still be booting.
func dial(t *testing.T, m *Machine, key ssh.Signer, patience time.Duration) *ssh.Client {
	t.Helper()
	c, err := login(m, key, patience)
	if err != nil {
		log, _ := m.ConsoleLog(t.Context())
		t.Fatalf("%v; status %+v; console:\n%s", err, m.Status(), log)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func login(m *Machine, key ssh.Signer, patience time.Duration) (*ssh.Client, error) {
	s := m.Status()
	cfg := &ssh.ClientConfig{
		User: s.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 5 * time.Second,
	}
	addr := net.JoinHostPort(s.Address.Addr().String(), "22")
	for end := time.Now().Add(patience); ; time.Sleep(500 * time.Millisecond) {
		c, err := ssh.Dial("tcp", addr, cfg)
		if err == nil {
			return c, nil
		}
		if log, lerr := m.ConsoleLog(context.Background()); lerr == nil && strings.Contains(string(log), "end Kernel panic") {
			return nil, fmt.Errorf("ssh to %s: the guest's kernel panicked: %w", addr, err)
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("ssh to %s within %s: %w", addr, patience, err)
		}
	}
}

// sh runs a command in a guest.
func sh(t *testing.T, c *ssh.Client, cmd string) string {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out, err := s.CombinedOutput(cmd)
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestRealSeed: a guest gets its name, its address and its keys, and nobody
// else's, from the seed alone.
func TestRealSeed(t *testing.T) {
	h := realHost(t, newPlace(t))
	first, pub1 := key25519(t)
	second, pub2 := key25519(t)
	var machines []*Machine
	for name, pub := range map[string]string{"first": pub1, "second": pub2} {
		s := tinySpec(name)
		s.Image, s.Hostname, s.Keys = "tiny-cloud", name+"-host", []string{pub}
		machines = append(machines, create(t, h, s))
	}
	for _, m := range machines {
		name := m.Status().Spec.Name
		key, other := first, second
		if name == "second" {
			key, other = second, first
		}
		if got := sh(t, dial(t, m, key, 5*time.Minute), "hostname"); got != name+"-host" {
			t.Errorf("%s is called %s", name, got)
		}
		if c, err := login(m, other, 0); err == nil {
			c.Close()
			t.Errorf("%s let the other's key in", name)
		} else if !strings.Contains(err.Error(), "unable to authenticate") {
			t.Errorf("%s with the other's key: %v", name, err)
		}
	}
	for _, m := range machines {
		if err := m.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestRealMachine(t *testing.T) {
	p := newPlace(t)
	h := realHost(t, p)
	key, pub := key25519(t)
	began := time.Now()
	m, err := h.Create(t.Context(), MachineSpec{
		Name: "vm1", Image: "debian12", CPUs: 1, Memory: 512 * MiB, Disk: 4 * GiB, Keys: []string{pub},
		Hostname: "first",
	})
	if err != nil {
		t.Fatal(err)
	}
	for pr := range m.Progress() {
		t.Logf("%s %s", time.Since(began).Round(10*time.Millisecond), pr)
	}
	if err := m.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := dial(t, m, key, 20*time.Minute)
	t.Logf("%s ssh", time.Since(began).Round(10*time.Millisecond))
	for cmd, want := range map[string]string{
		"hostname":    "first",
		"nproc":       "1",
		"id -un":      "debian",
		"hostname -I": m.Status().Address.Addr().String(),
		"cat /sys/class/dmi/id/sys_vendor || true": "",
	} {
		if got := sh(t, c, cmd); want != "" && got != want {
			t.Errorf("%s: %q, want %q", cmd, got, want)
		}
	}
	t.Log(sh(t, c, "cloud-init status --wait --long || true; df -h /; free -m; date -u; uptime"))
	st, err := m.Stats(t.Context())
	t.Logf("stats %+v, %v", st, err)
	tellOverhead(t, m.Status().WorkerPID, 512*MiB)
	if err := m.Stop(t.Context(), StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := m.Status().Reason; r != "powered off by the guest" {
		t.Errorf("after the power button: %s", r)
	}
	if err := m.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// cloudImage is the testbed's Debian image as an entry of a catalogue.
func cloudImage(t testing.TB) string {
	t.Helper()
	// imagesDir is where the testbed keeps the cloud image that Debian's
	// packages made.
	const imagesDir = "/opt/skep/images"
	var image struct{ Cmdline string }
	if b, err := os.ReadFile(imagesDir + "/debian12.json"); errors.Is(err, os.ErrNotExist) && runtime.GOOS == "freebsd" {
		return "" // the testbed has their disk where it makes FreeBSD's own
	} else if err != nil {
		t.Fatal(err)
	} else if err := json.Unmarshal(b, &image); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`
  - name: debian12
    source: %[1]s/debian12.raw
    format: raw
    os: linux
    profile: debian12
    user: debian
    kernel: {source: %[1]s/debian12.vmlinuz}
    initrd: {source: %[1]s/debian12.initrd}
    cmdline: %[2]q
`, imagesDir, image.Cmdline)
}
