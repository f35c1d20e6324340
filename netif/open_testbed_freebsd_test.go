// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package netif_test

import (
	"errors"
	"testing"

	"github.com/skepvm/skep/netif"
)

// TestDestroyOpenTap: a tap that somebody has open is busy, by then others can be
// made and destroyed, and it goes once it is closed.
func TestDestroyOpenTap(t *testing.T) {
	c, err := netif.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tap, err := c.CreateTap(netif.TapSpec{Common: netif.Common{Name: "ntopen0", Owner: "test"}})
	if err != nil {
		t.Fatal(err)
	}
	busy := make(chan error, 1)
	go func() { busy <- c.Destroy("ntopen0") }()
	for range 20 {
		if _, err := c.CreateBridge(netif.BridgeSpec{Common: netif.Common{Name: "ntopen1", Owner: "test"}}); err != nil {
			t.Fatal(err)
		}
		if err := c.Destroy("ntopen1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-busy; !errors.Is(err, netif.ErrBusy) {
		t.Errorf("an open tap: %v", err)
	} else {
		t.Log(err)
	}
	go func() { busy <- c.Destroy("ntopen0") }() // which waits for the close
	if err := tap.Files[0].Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-busy; err != nil {
		t.Error(err)
	}
	if _, err := c.Get("ntopen0"); !errors.Is(err, netif.ErrNotFound) {
		t.Errorf("after its destruction: %v", err)
	}
}
