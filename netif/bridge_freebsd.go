// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/netif/internal/ifabi"
)

func (k *freebsd) addMember(bridge, member string) error {
	err := drv(k, ifabi.SIOCSDRVSPEC, bridge, ifabi.BRDGADD, &ifabi.Bridgereq{Ifsname: nameOf(member)})
	if err == nil || !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EBUSY) {
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("no such member: %w", err)
		}
		return err
	}
	// Which of the two it is depends on the version.
	ports, perr := k.ports()
	if perr != nil {
		return perr
	}
	if ports[member].bridge == bridge {
		return nil
	}
	return fmt.Errorf("it is a port of another bridge: %w", unix.EBUSY)
}

func (k *freebsd) removeMember(bridge, member string) error {
	err := drv(k, ifabi.SIOCSDRVSPEC, bridge, ifabi.BRDGDEL, &ifabi.Bridgereq{Ifsname: nameOf(member)})
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	// No such port, or no such interface.
	return ioctl(k.inet, ifabi.SIOCGIFFLAGS, request(member))
}

func (k *freebsd) setPrivate(bridge, member string, private bool) error {
	r := &ifabi.Bridgereq{Ifsname: nameOf(member)}
	if err := drv(k, ifabi.SIOCGDRVSPEC, bridge, ifabi.BRDGGIFFLGS, r); err != nil {
		return err
	}
	flags := r.Ifsflags &^ ifabi.IFBIF_PRIVATE
	if private {
		flags |= ifabi.IFBIF_PRIVATE
	}
	if flags == r.Ifsflags {
		return nil
	}
	r.Ifsflags = flags
	return drv(k, ifabi.SIOCSDRVSPEC, bridge, ifabi.BRDGSIFFLGS, r)
}
