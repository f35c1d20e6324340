// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

// errHostKey: the machine that answers is not the one that we knew.
var errHostKey = errors.New("the host key is not the one of the first login")

// hostKeys is the host key of one machine, kept by its id. Addresses are reused
// by new machines, ids are not: so ssh's own known_hosts would cry wolf.
type hostKeys struct{ path string }

func openHostKeys(id string) (*hostKeys, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return nil, fmt.Errorf("find a place for host keys: %w", err)
	}
	dir = filepath.Join(dir, "skep", "hostkeys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a place for host keys: %w", err)
	}
	if id == "" || filepath.Base(id) != id {
		return nil, fmt.Errorf("machine id %q cannot name a file", id)
	}
	return &hostKeys{filepath.Join(dir, id)}, nil
}

// check is an ssh.HostKeyCallback: it trusts the first key and no other after.
func (h *hostKeys) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	line := ssh.MarshalAuthorizedKey(key)
	known, err := os.ReadFile(h.path)
	switch {
	case err == nil && bytes.Equal(known, line):
		return nil
	case err == nil:
		return fmt.Errorf("%w: it is %s now; if that is right, remove %s", errHostKey, ssh.FingerprintSHA256(key), h.path)
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("read the known host key: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(h.path), "new-*")
	if err != nil {
		return fmt.Errorf("keep the host key: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(line)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), h.path)
	}
	if err != nil {
		return fmt.Errorf("keep the host key: %w", err)
	}
	return nil
}
