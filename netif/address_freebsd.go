// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/netif/internal/ifabi"
)

func sockaddr4(a netip.Addr) ifabi.Sockaddr4 {
	return ifabi.Sockaddr4{Len: 16, Family: ifabi.AF_INET, Addr: a.As4()}
}

func sockaddr6(a netip.Addr) ifabi.Sockaddr6 {
	return ifabi.Sockaddr6{Len: 28, Family: ifabi.AF_INET6, Addr: a.As16()}
}

// maskOf is the netmask of a prefix, as an address.
func maskOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		b[i] = 0
		if n := p.Bits() - 8*i; n > 0 {
			b[i] = 0xff << (8 - min(n, 8))
		}
	}
	m, _ := netip.AddrFromSlice(b)
	return m
}

// broadcastOf is the last address of an IPv4 prefix.
func broadcastOf(p netip.Prefix) netip.Addr {
	a, m := p.Addr().As4(), maskOf(p).As4()
	for i := range a {
		a[i] |= ^m[i]
	}
	return netip.AddrFrom4(a)
}

func (k *freebsd) addAddress(name string, p netip.Prefix) error {
	if p.Addr().Is4() {
		r := &ifabi.Aliasreq{Name: nameOf(name), Addr: sockaddr4(p.Addr()), Mask: sockaddr4(maskOf(p))}
		if p.Bits() < 31 {
			r.Broadaddr = sockaddr4(broadcastOf(p))
		}
		return ioctl(k.inet, ifabi.SIOCAIFADDR, r)
	}
	if k.inet6 < 0 {
		return fmt.Errorf("%w: no IPv6", errors.ErrUnsupported)
	}
	r := &ifabi.Aliasreq6{
		Name: nameOf(name), Addr: sockaddr6(p.Addr()), Prefixmask: sockaddr6(maskOf(p)),
		// Without duplicate detection the address answers at once.
		Flags:    ifabi.IN6_IFF_NODAD,
		Lifetime: ifabi.Lifetime{Vltime: ifabi.ND6_INFINITE_LIFETIME, Pltime: ifabi.ND6_INFINITE_LIFETIME},
	}
	err := ioctl(k.inet6, ifabi.SIOCAIFADDR_IN6, r)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func (k *freebsd) removeAddress(name string, p netip.Prefix) error {
	var err error
	if p.Addr().Is4() {
		r := request(name)
		a := p.Addr().As4()
		r.Ifru[0], r.Ifru[1] = 16, ifabi.AF_INET
		copy(r.Ifru[4:], a[:])
		err = ioctl(k.inet, ifabi.SIOCDIFADDR, r)
	} else {
		if k.inet6 < 0 {
			return fmt.Errorf("%w: no IPv6", errors.ErrUnsupported)
		}
		err = ioctl(k.inet6, ifabi.SIOCDIFADDR_IN6, &ifabi.Ifreq6{Name: nameOf(name), Addr: sockaddr6(p.Addr())})
	}
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	return err
}
