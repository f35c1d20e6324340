// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/skepvm/skep/netif/internal/ifabi"
)

// newLink is FreeBSD's RTM_NEWLINK for a clone: a kind's own name leaves the unit to the kernel.
func newLink(kind, description string) []byte {
	text := func(s string) []byte { return append([]byte(s), 0) }
	b := make([]byte, ifabi.SizeofNlmsghdr+ifabi.SizeofIfinfomsg)
	b = appendAttr(b, ifabi.IFLA_IFNAME, text(kind))
	b = appendAttr(b, ifabi.IFLA_LINKINFO, appendAttr(nil, ifabi.IFLA_INFO_KIND, text(kind)))
	b = appendAttr(b, ifabi.IFLA_IFALIAS, text(description))
	le := binary.LittleEndian
	le.PutUint32(b, uint32(len(b)))
	le.PutUint16(b[4:], ifabi.RTM_NEWLINK)
	le.PutUint16(b[6:], ifabi.NLM_F_REQUEST|ifabi.NLM_F_ACK|ifabi.NLM_F_CREATE|ifabi.NLM_F_EXCL)
	le.PutUint32(b[8:], 1) // its number, the only one on this socket
	return b
}

func appendAttr(b []byte, kind uint16, data []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(ifabi.SizeofNlattr+len(data)))
	b = binary.LittleEndian.AppendUint16(b, kind)
	b = append(b, data...)
	return append(b, make([]byte, -len(b)&3)...)
}

// attr finds an attribute.
func attr(b []byte, kind uint16) []byte {
	for len(b) >= ifabi.SizeofNlattr {
		n := int(binary.LittleEndian.Uint16(b))
		if n < ifabi.SizeofNlattr || n > len(b) {
			return nil
		}
		if binary.LittleEndian.Uint16(b[2:]) == kind {
			return b[ifabi.SizeofNlattr:n]
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// newLinkName reads the answer to newLink: an error, or the name that the kernel gave,
// which comes as a cookie.
func newLinkName(b []byte) (string, error) {
	const errorAt = ifabi.SizeofNlmsghdr
	if len(b) < errorAt+ifabi.SizeofNlmsgerr || binary.LittleEndian.Uint16(b[4:]) != ifabi.NLMSG_ERROR {
		return "", fmt.Errorf("netlink answer of %d bytes: %w", len(b), syscall.EBADMSG)
	}
	if errno := binary.LittleEndian.Uint32(b[errorAt:]); errno != 0 {
		return "", syscall.Errno(errno)
	}
	cookie := attr(b[errorAt+ifabi.SizeofNlmsgerr:], ifabi.NLMSGERR_ATTR_COOKIE)
	name, _, _ := bytes.Cut(attr(cookie, ifabi.IFLA_IFNAME), []byte{0})
	if err := checkForeignName(string(name)); err != nil {
		return "", fmt.Errorf("netlink answer: %w", err)
	}
	return string(name), nil
}
