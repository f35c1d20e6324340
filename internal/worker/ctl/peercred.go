// SPDX-License-Identifier: BSD-2-Clause

package ctl

import "net"

// Cred is who is at the other end of a unix socket, by the kernel's word.
type Cred struct {
	UID uint32
	PID int
}

// PeerCred asks the kernel (SO_PEERCRED of unix(7), LOCAL_PEERCRED of unix(4)).
// For the end that connected, it names the process that last called listen.
func PeerCred(c *net.UnixConn) (Cred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Cred{}, err
	}
	var cred Cred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = peerCred(int(fd)) }); err != nil {
		return Cred{}, err
	}
	return cred, cerr
}
