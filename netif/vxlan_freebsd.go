// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/netif/internal/ifabi"
)

// FreeBSD's vxlan has one default destination, a peer or a multicast group, and
// a table of MAC addresses; it has no list of peers that flooded frames go to.

func vxlanAddr(a netip.Addr, port uint16) (s ifabi.VxlanAddr) {
	binary.BigEndian.PutUint16(s[2:], port)
	if a.Is4() {
		b := a.As4()
		s[0], s[1] = 16, ifabi.AF_INET
		copy(s[4:], b[:])
		return s
	}
	b := a.As16()
	s[0], s[1] = 28, ifabi.AF_INET6
	copy(s[8:], b[:])
	return s
}

func vxlanAddrOf(s ifabi.VxlanAddr) netip.Addr {
	switch s[1] {
	case ifabi.AF_INET:
		return netip.AddrFrom4([4]byte(s[4:8]))
	case ifabi.AF_INET6:
		return netip.AddrFrom16([16]byte(s[8:24]))
	}
	return netip.Addr{}
}

func (k *freebsd) createVXLAN(scratch string, s *VXLANSpec) (made, error) {
	p := &ifabi.Vxlanparam{
		With: ifabi.VXLAN_PARAM_WITH_VNI | ifabi.VXLAN_PARAM_WITH_LEARN |
			ifabi.VXLAN_PARAM_WITH_LOCAL_PORT | ifabi.VXLAN_PARAM_WITH_REMOTE_PORT,
		Vni: s.VNI, LocalPort: s.Port, RemotePort: s.Port,
	}
	if !s.NoLearning {
		p.Learn = 1
	}
	if s.TTL != 0 {
		p.With |= ifabi.VXLAN_PARAM_WITH_TTL
		p.Ttl = s.TTL
	}
	if s.Local.IsValid() {
		p.LocalSa = vxlanAddr(s.Local, 0)
		p.With |= family(s.Local, ifabi.VXLAN_PARAM_WITH_LOCAL_ADDR4, ifabi.VXLAN_PARAM_WITH_LOCAL_ADDR6)
	}
	// Without a destination the interface does not run, and the table takes
	// addresses of the destination's family only. Its own address is one that
	// frames for unknown addresses come to nothing at.
	remote := s.Remote
	if !remote.IsValid() {
		remote = s.Local
	}
	if remote.IsValid() {
		p.RemoteSa = vxlanAddr(remote, 0)
		p.With |= family(remote, ifabi.VXLAN_PARAM_WITH_REMOTE_ADDR4, ifabi.VXLAN_PARAM_WITH_REMOTE_ADDR6)
	}
	if s.Parent != "" {
		if err := ioctl(k.inet, ifabi.SIOCGIFFLAGS, request(s.Parent)); err != nil {
			return made{}, fmt.Errorf("parent %q: %w", s.Parent, err)
		}
		if s.Remote.IsValid() && s.Remote.IsMulticast() {
			p.With |= ifabi.VXLAN_PARAM_WITH_MULTICAST_IF
			p.McIfname = nameOf(s.Parent)
		}
	}
	dev, err := cloneAs(k, "vxlan", p, scratch)
	if err != nil {
		return made{}, err
	}
	return made{dev: dev}, nil
}

func family(a netip.Addr, v4, v6 uint64) uint64 {
	if a.Is4() {
		return v4
	}
	return v6
}

func (k *freebsd) addForward(vxlan string, f Forward) error {
	if isZeroMAC(f) {
		return k.setRemote(vxlan, f.To)
	}
	c := &ifabi.Vxlancmd{Mac: [6]byte(f.MAC), Sa: vxlanAddr(f.To, 0)}
	err := drv(k, ifabi.SIOCSDRVSPEC, vxlan, ifabi.VXLAN_CMD_FTABLE_ENTRY_ADD, c)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	old := *c
	if err := drv(k, ifabi.SIOCSDRVSPEC, vxlan, ifabi.VXLAN_CMD_FTABLE_ENTRY_REM, &old); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return drv(k, ifabi.SIOCSDRVSPEC, vxlan, ifabi.VXLAN_CMD_FTABLE_ENTRY_ADD, c)
}

func isZeroMAC(f Forward) bool {
	return !slices.ContainsFunc(f.MAC, func(b byte) bool { return b != 0 })
}

// setRemote makes an address the destination of all that has no entry. The
// kernel changes it only while the interface does not run.
func (k *freebsd) setRemote(vxlan string, to netip.Addr) error {
	var cfg ifabi.Vxlancfg
	if err := drv(k, ifabi.SIOCGDRVSPEC, vxlan, ifabi.VXLAN_CMD_GET_CONFIG, &cfg); err != nil {
		return err
	}
	now, local := vxlanAddrOf(cfg.RemoteSa), vxlanAddrOf(cfg.LocalSa)
	switch {
	case now == to:
		return nil
	case now != local && !now.IsUnspecified():
		return fmt.Errorf("%w: FreeBSD's vxlan floods to one peer, and has %v", errors.ErrUnsupported, now)
	}
	r := request(vxlan)
	if err := ioctl(k.inet, ifabi.SIOCGIFFLAGS, r); err != nil {
		return err
	}
	up := r.Ifru[0]&ifabi.IFF_UP != 0
	if up {
		if err := k.setUp(vxlan, false); err != nil {
			return err
		}
	}
	port := binary.BigEndian.Uint16(cfg.RemoteSa[2:])
	err := drv(k, ifabi.SIOCSDRVSPEC, vxlan, ifabi.VXLAN_CMD_SET_REMOTE_ADDR, &ifabi.Vxlancmd{Sa: vxlanAddr(to, port)})
	if up {
		err = errors.Join(err, k.setUp(vxlan, true))
	}
	return err
}

func (k *freebsd) removeForward(vxlan string, f Forward) error {
	if isZeroMAC(f) {
		var cfg ifabi.Vxlancfg
		if err := drv(k, ifabi.SIOCGDRVSPEC, vxlan, ifabi.VXLAN_CMD_GET_CONFIG, &cfg); err != nil {
			return err
		}
		if vxlanAddrOf(cfg.RemoteSa) != f.To {
			return nil
		}
		return fmt.Errorf("%w: FreeBSD's vxlan cannot be without a destination", errors.ErrUnsupported)
	}
	c := &ifabi.Vxlancmd{Mac: [6]byte(f.MAC), Sa: vxlanAddr(f.To, 0)}
	err := drv(k, ifabi.SIOCSDRVSPEC, vxlan, ifabi.VXLAN_CMD_FTABLE_ENTRY_REM, c)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (k *freebsd) forwards(vxlan string) ([]Forward, error) {
	text, err := k.description(vxlan)
	if err != nil {
		return nil, err
	}
	dev := vxlan
	if m, ok := parseMark(text); ok && m.dev != "" {
		dev = m.dev
	}
	unit, ok := strings.CutPrefix(dev, "vxlan")
	if !ok {
		return nil, fmt.Errorf("%w: %q was renamed, and what it was called is not known", errors.ErrUnsupported, vxlan)
	}
	dump, err := unix.Sysctl("net.link.vxlan." + unit + ".ftable.dump")
	if err != nil {
		return nil, fmt.Errorf("forwarding table of %s: %w", dev, err)
	}
	out := parseForwards(dump)
	var cfg ifabi.Vxlancfg
	if err := drv(k, ifabi.SIOCGDRVSPEC, vxlan, ifabi.VXLAN_CMD_GET_CONFIG, &cfg); err != nil {
		return nil, err
	}
	if to := vxlanAddrOf(cfg.RemoteSa); to.IsValid() && !to.IsUnspecified() && !to.IsMulticast() && to != vxlanAddrOf(cfg.LocalSa) {
		out = append(out, Forward{MAC: make([]byte, 6), To: to})
	}
	return out, nil
}
