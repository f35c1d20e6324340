// SPDX-License-Identifier: BSD-2-Clause

// No tag: it runs anywhere, and by its name in every testbed.

package ctl

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestPeerCred(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cred, err := PeerCred(s.(*net.UnixConn))
	if err != nil || int(cred.UID) != os.Geteuid() || cred.PID != os.Getpid() {
		t.Errorf("PeerCred: %+v, %v", cred, err)
	}
}
