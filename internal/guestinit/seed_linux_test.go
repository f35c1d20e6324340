// SPDX-License-Identifier: BSD-2-Clause

package guestinit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/skepvm/skep/cloudinit"
	"golang.org/x/crypto/ssh"
)

func newKey(t *testing.T) ssh.PublicKey {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSeed(t *testing.T) {
	mine, anna, other := newKey(t), newKey(t), newKey(t)
	line := func(k ssh.PublicKey) []string {
		return []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))}
	}
	mac := net.HardwareAddr{2, 0xab, 0, 0, 0, 1}
	cs := cloudinit.Seed{
		InstanceID: "i-1", Hostname: "vm1",
		User: &cloudinit.Config{
			Hostname: "vm1", AuthorizedKeys: line(mine),
			Users: []cloudinit.User{{Name: "anna", AuthorizedKeys: line(anna)}},
		},
		Network: &cloudinit.Network{Interfaces: []cloudinit.Interface{{
			Name: "net0", MAC: mac, MTU: 1450,
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/24"), netip.MustParsePrefix("2001:db8::7/64")},
			Gateway4:  netip.MustParseAddr("10.0.0.1"),
		}}},
	}
	img, err := cs.ISO()
	if err != nil {
		t.Fatal(err)
	}
	s, err := readSeed(bytes.NewReader(img))
	if err != nil {
		t.Fatal(err)
	}
	if s.hostname != "vm1" || !s.allows(mine) || !s.allows(anna) || s.allows(other) {
		t.Errorf("name %q, keys %v %v %v", s.hostname, s.allows(mine), s.allows(anna), s.allows(other))
	}
	if len(s.nets) != 1 {
		t.Fatalf("%d interfaces", len(s.nets))
	}
	n, want := s.nets[0], cs.Network.Interfaces[0]
	if n.mac != mac.String() || n.mtu != 1450 || n.gateway != want.Gateway4 || !slices.Equal(n.addresses, want.Addresses) {
		t.Errorf("interface %+v", n)
	}
}

func TestNoSeed(t *testing.T) {
	var b bytes.Buffer
	if err := cloudinit.WriteISO(&b, "other", []cloudinit.File{{Name: "user-data", Data: []byte("#cloud-config\n")}}); err != nil {
		t.Fatal(err)
	}
	for name, disk := range map[string][]byte{"empty": nil, "zeroes": make([]byte, 1<<16), "another label": b.Bytes()} {
		if _, err := readSeed(bytes.NewReader(disk)); !errors.Is(err, errNoSeed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range [][2]string{
		{"a: [", ""}, {"ssh_authorized_keys: [nonsense]", ""}, {"", "version: 1"},
		{"", "version: 2\nethernets: {net0: {match: {macaddress: no}}}"}, {"", "version: 2\nethernets: {net0: {addresses: [x]}}"},
	} {
		if s, err := parseSeed([]byte(bad[0]), []byte(bad[1])); err == nil {
			t.Errorf("%q: %+v", bad, s)
		}
	}
}
