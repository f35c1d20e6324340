// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/netif/internal/ifabi"
)

// errNoNetlink is the answer of a kernel without netlink(4), which 14 and later have
// built in.
var errNoNetlink = errors.New("the kernel has no netlink")

// netlinkPatience is how long the kernel may take to make an interface.
const netlinkPatience = time.Minute

// cloneDescribed makes an interface of the kernel's naming that has a description from
// the start, and returns its name: netlink(4) takes both in one request, which the
// kernel ends whatever becomes of this process.
func cloneDescribed(kind, description string) (string, error) {
	s, err := unix.Socket(ifabi.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, ifabi.NETLINK_ROUTE)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return "", fmt.Errorf("%w: %w", errNoNetlink, err)
	}
	if err != nil {
		return "", fmt.Errorf("netlink socket: %w", err)
	}
	defer unix.Close(s)
	limit := unix.NsecToTimeval(int64(netlinkPatience))
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return "", fmt.Errorf("netlink socket: %w", err)
	}
	if _, err := unix.Write(s, newLink(kind, description)); err != nil {
		return "", fmt.Errorf("netlink: %w", err)
	}
	answer := make([]byte, 4096)
	for {
		n, err := unix.Read(s, answer)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("netlink answer: %w", err)
		}
		return newLinkName(answer[:n])
	}
}
