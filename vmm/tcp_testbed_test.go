// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && (linux || guests)

package vmm_test

import (
	"net"
	"testing"

	"github.com/skepvm/skep/internal/testguest"
)

// peer answers as the guest's tcp-serve does.
func peer(t testing.TB, addr string) string {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go testguest.ServeTCP(l, func(error) {}) // the sums tell
	return l.Addr().String()
}

// sendTo sends the pattern to the guest's tcp-serve and returns the guest's sum.
func sendTo(t testing.TB, addr string, n, seed uint64) string {
	t.Helper()
	theirs, _, _, err := testguest.SendTCP(addr, n, seed)
	if err != nil {
		t.Fatal(err)
	}
	return theirs
}
