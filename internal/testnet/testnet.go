// SPDX-License-Identifier: BSD-2-Clause

// Package testnet is the host's side of a test guest's network: a tap, and a peer
// for what package testguest sends and receives.
//
// It is imported by tests and benchmarks only.
package testnet

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/skepvm/skep/internal/testguest"
	"github.com/skepvm/skep/netif"
)

// Tap makes a tap with an address, and removes it when the test ends. Its file is
// the caller's.
func Tap(t testing.TB, name, addr string) *os.File {
	t.Helper()
	c, err := netif.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	tap, err := c.CreateTap(netif.TapSpec{VnetHeader: true, Common: netif.Common{
		Name: name, Owner: "testnet", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix(addr)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Linux's go with their file.
		if err := c.Destroy(name); err != nil && !errors.Is(err, netif.ErrNotFound) {
			t.Error(err)
		}
	})
	return tap.Files[0]
}

// Serve answers as the guest's tcp-serve does, until the test ends; it tells where.
func Serve(t testing.TB, addr string) string {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go testguest.ServeTCP(l, func(error) {}) // the sums tell
	return l.Addr().String()
}

// Send sends the pattern to the guest's tcp-serve and returns the guest's sum.
func Send(t testing.TB, addr string, n, seed uint64) string {
	t.Helper()
	theirs, _, _, err := testguest.SendTCP(addr, n, seed)
	if err != nil {
		t.Fatal(err)
	}
	return theirs
}
