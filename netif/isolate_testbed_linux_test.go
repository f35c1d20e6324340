// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package netif

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// isolate moves the test's goroutine into a network namespace of its own. Its
// thread is never unlocked, and so ends with the goroutine.
func isolate(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare(CLONE_NEWNET), as root: %v", err)
	}
}

func TestTapGoesWithItsDescriptor(t *testing.T) {
	c := open(t)
	tap := must[*Tap](t)(c.CreateTap(TapSpec{Common: common("nttap0"), VnetHeader: true, Queues: 4}))
	if len(tap.Files) != 4 {
		t.Errorf("%d queues", len(tap.Files))
	}
	if err := tap.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Get("nttap0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the tap is still there: %v", err)
	}
}

// TestAnotherThread makes a tap from a thread that is in another namespace: it
// must come into the connection's.
func TestAnotherThread(t *testing.T) {
	c := open(t)
	done := make(chan error, 1)
	go func() { // not locked: in the namespace of the process
		tap, err := c.CreateTap(TapSpec{Common: common("nttap0"), Persist: true})
		if err == nil {
			err = tap.Close()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get("nttap0"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/proc/1/net/dev_snmp6/nttap0"); err == nil {
		t.Error("the tap is in the namespace of the process")
	}
}

func TestNotPermitted(t *testing.T) {
	c := open(t)
	// Capabilities are of the thread, which ends with this test.
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var old, none [2]unix.CapUserData
	if err := unix.Capget(&hdr, &old[0]); err != nil {
		t.Fatal(err)
	}
	none = old
	none[0].Effective = 0
	if err := unix.Capset(&hdr, &none[0]); err != nil {
		t.Fatal(err)
	}
	_, err := c.CreateBridge(BridgeSpec{common("ntbr0")})
	_, terr := c.CreateTap(TapSpec{Common: common("nttap0")})
	if e := unix.Capset(&hdr, &old[0]); e != nil {
		t.Fatal(e)
	}
	if !errors.Is(err, ErrPermission) || !errors.Is(terr, ErrPermission) {
		t.Errorf("without capabilities: bridge: %v; tap: %v", err, terr)
	}
}
