// SPDX-License-Identifier: BSD-2-Clause

package testnet

import (
	"testing"

	"github.com/vishvananda/netlink"
)

// Segments has TCP give an interface at most n segments at once: with one, nothing
// is left to the interface's segmentation.
func Segments(t testing.TB, name string, n int) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetGSOMaxSegs(link, n)
	}
	if err != nil {
		t.Fatalf("%s: at most %d segments at once: %v", name, n, err)
	}
}
