// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// linux speaks rtnetlink(7), and for taps /dev/net/tun.
type linux struct {
	h  *netlink.Handle
	ns netns.NsHandle // where taps are made, whatever thread asks
}

// dumpTries bounds the repetition of a dump that the kernel says was
// interrupted by a change.
const dumpTries = 16

func openKernel() (kernel, error) {
	ns, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("netlink: %w", err), ns.Close())
	}
	return &linux{h: h, ns: ns}, nil
}

func (k *linux) close() error {
	k.h.Close()
	return k.ns.Close()
}

func (k *linux) hasGroups() bool               { return false }
func (k *linux) addGroup(_, _ string) error    { return errors.ErrUnsupported }
func (k *linux) removeGroup(_, _ string) error { return errors.ErrUnsupported }
func (k *linux) destroy(name string) error     { return k.with(name, k.h.LinkDel) }
func (k *linux) setMTU(name string, mtu int) error {
	return k.with(name, func(l netlink.Link) error { return k.h.LinkSetMTU(l, mtu) })
}

func (k *linux) rename(from, to string) error {
	return k.with(from, func(l netlink.Link) error { return k.h.LinkSetName(l, to) })
}

func (k *linux) setDescription(name, text string) error {
	return k.with(name, func(l netlink.Link) error { return k.h.LinkSetAlias(l, text) })
}

func (k *linux) setUp(name string, up bool) error {
	if up {
		return k.with(name, k.h.LinkSetUp)
	}
	return k.with(name, k.h.LinkSetDown)
}

func (k *linux) setMAC(name string, mac net.HardwareAddr) error {
	return k.with(name, func(l netlink.Link) error { return k.h.LinkSetHardwareAddr(l, mac) })
}

func (k *linux) link(name string) (netlink.Link, error) {
	l, err := k.h.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, unix.ENODEV
	}
	return l, err
}

// with does something to the interface that is called name now; the change
// itself goes by its index.
func (k *linux) with(name string, do func(netlink.Link) error) error {
	l, err := k.link(name)
	if err != nil {
		return err
	}
	return do(l)
}

func (k *linux) index(name string) (int, error) {
	l, err := k.link(name)
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}

// retry repeats a dump for as long as the kernel calls it inconsistent.
func retry[T any](dump func() (T, error)) (t T, err error) {
	for range dumpTries {
		if t, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return t, err
}

func (k *linux) list() ([]Interface, error) {
	links, err := retry(k.h.LinkList)
	if err != nil {
		return nil, err
	}
	addrs, err := retry(func() ([]netlink.Addr, error) { return k.h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	byIndex := map[int][]netip.Prefix{}
	for _, a := range addrs {
		if p, ok := prefixOf(a); ok {
			byIndex[a.LinkIndex] = append(byIndex[a.LinkIndex], p)
		}
	}
	out := make([]Interface, 0, len(links))
	for _, l := range links {
		i := describe(l, names)
		i.Addresses = byIndex[i.Index]
		if i.Bridge != "" {
			if i.Private, err = k.isolated(l); err != nil {
				return nil, err
			}
		}
		out = append(out, i)
	}
	return out, nil
}

func (k *linux) get(name string) (Interface, error) {
	l, err := k.link(name)
	if err != nil {
		return Interface{}, err
	}
	names := map[int]string{}
	for _, n := range []int{l.Attrs().MasterIndex, l.Attrs().ParentIndex} {
		if n == 0 {
			continue
		}
		if o, err := k.h.LinkByIndex(n); err == nil {
			names[n] = o.Attrs().Name
		}
	}
	i := describe(l, names)
	addrs, err := retry(func() ([]netlink.Addr, error) { return k.h.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return Interface{}, err
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a); ok {
			i.Addresses = append(i.Addresses, p)
		}
	}
	if i.Bridge != "" {
		i.Private, err = k.isolated(l)
	}
	return i, err
}

// isolated answers false for a port that left its bridge meanwhile.
func (k *linux) isolated(l netlink.Link) (bool, error) {
	p, err := retry(func() (netlink.Protinfo, error) { return k.h.LinkGetProtinfo(l) })
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		if _, err := k.h.LinkByIndex(l.Attrs().Index); err != nil {
			return false, nil
		}
	}
	return p.Isolated, err
}

func describe(l netlink.Link, names map[int]string) Interface {
	a := l.Attrs()
	i := Interface{
		Name:        a.Name,
		Index:       a.Index,
		Kind:        KindOther,
		MTU:         a.MTU,
		MAC:         slices.Clone(a.HardwareAddr),
		Up:          a.RawFlags&unix.IFF_UP != 0,
		Bridge:      names[a.MasterIndex],
		Description: a.Alias,
	}
	switch l := l.(type) {
	case *netlink.Bridge:
		i.Kind = KindBridge
	case *netlink.Tuntap:
		if l.Mode == unix.IFF_TAP || a.EncapType == "ether" {
			i.Kind = KindTap
		}
	case *netlink.Veth:
		i.Kind = KindPair
		if a.NetNsID < 0 {
			i.Peer = names[a.ParentIndex]
		}
	case *netlink.Vlan:
		i.Kind, i.VLAN, i.Parent = KindVLAN, l.VlanId, names[a.ParentIndex]
	case *netlink.Vxlan:
		i.Kind, i.VNI = KindVXLAN, uint32(l.VxlanId)
		if l.VtepDevIndex != 0 {
			i.Parent = names[l.VtepDevIndex]
		}
	}
	return i
}

func prefixOf(a netlink.Addr) (netip.Prefix, bool) {
	if a.IPNet == nil {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(a.IP)
	ones, _ := a.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), ones), ok
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (k *linux) addAddress(name string, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		// Without duplicate detection the address answers at once, also on a
		// bridge that has no port with carrier yet.
		a.Flags = unix.IFA_F_NODAD
	}
	err := k.with(name, func(l netlink.Link) error { return k.h.AddrAdd(l, a) })
	switch {
	case errors.Is(err, unix.EEXIST):
		return nil
	case errors.Is(err, unix.EACCES) && p.Addr().Is6():
		return fmt.Errorf("%w: IPv6 is disabled on it", errors.ErrUnsupported)
	}
	return err
}

func (k *linux) removeAddress(name string, p netip.Prefix) error {
	err := k.with(name, func(l netlink.Link) error { return k.h.AddrDel(l, &netlink.Addr{IPNet: ipNet(p)}) })
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	return err
}

func (k *linux) addMember(bridge, member string) error {
	b, err := k.index(bridge)
	if err != nil {
		return err
	}
	l, err := k.link(member)
	if err != nil {
		return err
	}
	switch l.Attrs().MasterIndex {
	case b:
		return nil
	case 0:
		return k.h.LinkSetMasterByIndex(l, b)
	}
	return fmt.Errorf("it is a port of another bridge: %w", unix.EBUSY)
}

func (k *linux) removeMember(bridge, member string) error {
	b, err := k.index(bridge)
	if err != nil {
		return err
	}
	l, err := k.link(member)
	if err != nil {
		return err
	}
	if l.Attrs().MasterIndex != b {
		return nil
	}
	return k.h.LinkSetNoMaster(l)
}

func (k *linux) setPrivate(_, member string, private bool) error {
	return k.with(member, func(l netlink.Link) error { return k.h.LinkSetIsolated(l, private) })
}

func attrs(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

func (k *linux) createBridge(scratch string, _ *BridgeSpec) (made, error) {
	return made{}, k.h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs(scratch)})
}

func (k *linux) createPair(scratch, peer string, _ *PairSpec) (made, error) {
	return made{}, k.h.LinkAdd(&netlink.Veth{LinkAttrs: attrs(scratch), PeerName: peer})
}

func (k *linux) createVLAN(scratch string, s *VLANSpec) (made, error) {
	parent, err := k.index(s.Parent)
	if err != nil {
		return made{}, fmt.Errorf("parent %q: %w", s.Parent, err)
	}
	l := &netlink.Vlan{LinkAttrs: attrs(scratch), VlanId: s.ID}
	l.ParentIndex = parent
	return made{}, k.h.LinkAdd(l)
}

func (k *linux) createVXLAN(scratch string, s *VXLANSpec) (made, error) {
	l := &netlink.Vxlan{
		LinkAttrs: attrs(scratch),
		VxlanId:   int(s.VNI),
		Port:      int(s.Port),
		Learning:  !s.NoLearning,
		TTL:       int(s.TTL),
		UDPCSum:   true,
	}
	if s.Local.IsValid() {
		l.SrcAddr = s.Local.AsSlice()
	}
	if s.Remote.IsValid() {
		l.Group = s.Remote.AsSlice()
	}
	if s.Parent != "" {
		parent, err := k.index(s.Parent)
		if err != nil {
			return made{}, fmt.Errorf("parent %q: %w", s.Parent, err)
		}
		l.VtepDevIndex = parent
	}
	return made{}, k.h.LinkAdd(l)
}

func (k *linux) neigh(vxlan string, f Forward) (*netlink.Neigh, error) {
	n, err := k.index(vxlan)
	if err != nil {
		return nil, err
	}
	return &netlink.Neigh{
		LinkIndex:    n,
		Family:       unix.AF_BRIDGE,
		State:        netlink.NUD_PERMANENT | netlink.NUD_NOARP,
		Flags:        netlink.NTF_SELF,
		IP:           f.To.AsSlice(),
		HardwareAddr: f.MAC,
	}, nil
}

func (k *linux) addForward(vxlan string, f Forward) error {
	n, err := k.neigh(vxlan, f)
	if err != nil {
		return err
	}
	if isZero(f.MAC) {
		if err := k.h.NeighAppend(n); !errors.Is(err, unix.EEXIST) {
			return err
		}
		return nil
	}
	return k.h.NeighSet(n)
}

func (k *linux) removeForward(vxlan string, f Forward) error {
	n, err := k.neigh(vxlan, f)
	if err != nil {
		return err
	}
	if err := k.h.NeighDel(n); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

func (k *linux) forwards(vxlan string) ([]Forward, error) {
	n, err := k.index(vxlan)
	if err != nil {
		return nil, err
	}
	list, err := retry(func() ([]netlink.Neigh, error) { return k.h.NeighList(n, unix.AF_BRIDGE) })
	if err != nil {
		return nil, err
	}
	var out []Forward
	for _, e := range list {
		ip, ok := netip.AddrFromSlice(e.IP)
		if ok && e.Flags&netlink.NTF_SELF != 0 {
			out = append(out, Forward{MAC: e.HardwareAddr, To: ip.Unmap()})
		}
	}
	return out, nil
}

func isZero(mac net.HardwareAddr) bool {
	return !slices.ContainsFunc(mac, func(b byte) bool { return b != 0 })
}
