// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && freebsd && guests

package vmm_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/skepvm/skep/netif"
)

// tap makes a tap interface with an address.
func tap(t testing.TB, name, addr string) *os.File {
	t.Helper()
	c, err := netif.Open()
	if err != nil {
		t.Fatal(err)
	}
	made, err := c.CreateTap(netif.TapSpec{VnetHeader: true, Common: netif.Common{
		Name: name, Owner: "vmm-test", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix(addr)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Destroy(name); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return made.Files[0]
}
