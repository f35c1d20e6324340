// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAddress: the address that a specification asks for is given, or refused
// before anything is made.
func TestAddress(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	at := func(name, addr string) MachineSpec {
		s := spec(name)
		s.Address = netip.MustParseAddr(addr)
		return s
	}
	m := create(t, h, at("vm1", "10.77.0.200"))
	if a := m.Status().Address; a != netip.MustParsePrefix("10.77.0.200/24") {
		t.Errorf("address %s", a)
	}
	if b, err := os.ReadFile(m.file(fileSeed)); err != nil || !strings.Contains(string(b), "10.77.0.200/24") {
		t.Errorf("the seed does not give the address: %v", err)
	}
	dirs, err := os.ReadDir(filepath.Join(p.store(), "machines"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		addr string
		is   error
		want string
	}{
		{"10.77.0.200", ErrExists, "address 10.77.0.200"},
		{"10.78.0.5", ErrInvalid, "10.78.0.5 is no host's address in 10.77.0.0/24"},
		{"10.77.0.1", ErrInvalid, "10.77.0.1 is the gateway of 10.77.0.0/24"},
		{"10.77.0.255", ErrInvalid, "10.77.0.255 is no host's address"},
		{"10.77.0.0", ErrInvalid, "10.77.0.0 is no host's address"},
		{"0.0.0.0", ErrInvalid, "want an IPv4 address"},
		{"127.0.0.1", ErrInvalid, "want an IPv4 address"},
		{"224.0.0.1", ErrInvalid, "want an IPv4 address"},
		{"fd00::5", ErrInvalid, "want an IPv4 address"},
	} {
		got, err := h.Create(t.Context(), at("vm2", c.addr))
		if !errors.Is(err, c.is) || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v, want %q", c.addr, err, c.want)
		}
		var fe *FieldError
		if errors.Is(c.is, ErrInvalid) && (!errors.As(err, &fe) || fe.Field != "Address") {
			t.Errorf("%s: the error does not name the field: %v", c.addr, err)
		}
		if got != nil {
			t.Fatalf("%s: a machine was made", c.addr)
		}
		if _, err := h.Get("", "vm2"); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: Get: %v", c.addr, err)
		}
		now, err := os.ReadDir(filepath.Join(p.store(), "machines"))
		if err != nil || len(now) != len(dirs) {
			t.Errorf("%s: %d machine directories, %v", c.addr, len(now), err)
		}
		h.mu.Lock()
		if n := len(h.pool.Claims()); n != 1 || len(h.machines) != 1 || h.committed != 64*MiB {
			t.Errorf("%s: %d addresses and %d machines claimed, %d bytes committed", c.addr, n, len(h.machines), h.committed)
		}
		h.mu.Unlock()
	}
	if err := m.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	create(t, h, at("vm2", "10.77.0.200")) // free again
	p.destroyAll(t, h)
}

// A host without a network refuses an address in the same way.
func TestAddressWithoutNetwork(t *testing.T) {
	p := newPlace(t)
	h := p.open(t, func(c *Config) { c.Network.Disabled = true })
	s := spec("vm1")
	s.Address = netip.MustParseAddr("10.77.0.5")
	if _, err := h.Create(t.Context(), s); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "no network") {
		t.Errorf("Create: %v", err)
	}
	p.empty(t, h)
}
