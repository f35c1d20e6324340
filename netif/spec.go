// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"net"
	"net/netip"
)

// Kind tells what an interface is.
type Kind string

// The kinds that this package makes; KindOther is everything else.
const (
	KindBridge Kind = "bridge"
	KindTap    Kind = "tap"
	KindPair   Kind = "pair"
	KindVLAN   Kind = "vlan"
	KindVXLAN  Kind = "vxlan"
	KindOther  Kind = "other"
)

// Common is what every specification says.
type Common struct {
	Name string // see CheckName
	// Owner names the store and machine that the interface is made for; it is
	// written into the mark. Required: 1-100 of [A-Za-z0-9._:/@+-].
	Owner  string
	MAC    net.HardwareAddr // 6 bytes, unicast; nil leaves the choice to the kernel
	MTU    int              // bytes, 0 leaves the choice to the kernel
	Up     bool
	Groups []string
	// Addresses that the host answers on, each with its prefix length.
	Addresses []netip.Prefix
	// Bridge, when set, is the bridge that the new interface joins.
	Bridge string
	// Private, in a bridge, keeps the port from talking to other private ones.
	Private bool
}

// BridgeSpec is a software bridge. With no MAC it gets one derived from Owner
// and Name, so that the address does not follow the ports that come and go.
type BridgeSpec struct {
	Common
}

// TapSpec is an interface whose frames a process reads and writes.
type TapSpec struct {
	Common
	// Persist keeps the tap when its last descriptor closes. FreeBSD's taps
	// always persist.
	Persist bool
	// VnetHeader puts a virtio_net_hdr_v1 of 12 bytes before each frame.
	VnetHeader bool
	// Queues is the number of descriptors, 0 meaning 1. FreeBSD has 1.
	Queues int
}

// PairSpec is two interfaces joined back to back: veth on Linux, epair on
// FreeBSD. Destroying either end removes both.
type PairSpec struct {
	Common
	Peer    string
	PeerMAC net.HardwareAddr
	PeerUp  bool
}

// VLANSpec is an 802.1Q VLAN of a parent interface.
type VLANSpec struct {
	Common
	Parent string
	ID     int // 1-4094
}

// VXLANSpec is a VXLAN tunnel (RFC 7348).
type VXLANSpec struct {
	Common
	VNI uint32 // 24 bits
	// Local is the address that tunnel packets are sent from.
	Local netip.Addr
	// Remote is the peer, or a multicast group; the zero value leaves the
	// peers to AddForward.
	Remote netip.Addr
	Port   uint16 // UDP, 0 meaning 4789
	// Parent is the interface that a multicast group is joined on.
	Parent string
	// NoLearning keeps the tunnel from learning peers from what arrives.
	NoLearning bool
	TTL        uint8 // 0 leaves the choice to the kernel
}

// Forward tells a VXLAN tunnel where a MAC address lives. The MAC
// 00:00:00:00:00:00 stands for every address that has no entry of its own.
type Forward struct {
	MAC net.HardwareAddr
	To  netip.Addr
}

// Interface describes an interface as the kernel has it.
type Interface struct {
	Name      string
	Index     int
	Kind      Kind
	MTU       int
	MAC       net.HardwareAddr
	Up        bool
	Addresses []netip.Prefix // sorted
	Groups    []string       // sorted
	// Bridge is the bridge that the interface is a port of, Private whether
	// it is a private one.
	Bridge  string
	Private bool
	Peer    string // the other end of a pair, when it is in this network stack
	Parent  string // of a VLAN or VXLAN
	VLAN    int    // of a VLAN
	VNI     uint32 // of a VXLAN

	// Description is what the kernel stores. Owner is read from it, and Ours is
	// whether it is skep's mark.
	Description string
	Owner       string
	Ours        bool
}

const (
	minMTU = 68    // RFC 791
	maxMTU = 65535 // taps and bridges of both systems
	// maxQueues is Linux's MAX_TAP_QUEUES.
	maxQueues = 256
)

func (c *Common) check() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if err := checkOwner(c.Owner); err != nil {
		return err
	}
	if err := checkMAC(c.MAC); err != nil {
		return err
	}
	if c.MTU != 0 {
		if err := checkMTU(c.MTU); err != nil {
			return err
		}
	}
	if len(c.Groups) > groupsRoom {
		return invalid("%d groups, at most %d", len(c.Groups), groupsRoom)
	}
	for _, g := range c.Groups {
		if err := checkGroup(g); err != nil {
			return err
		}
	}
	for _, a := range c.Addresses {
		if err := checkAddress(a); err != nil {
			return err
		}
	}
	if c.Private && c.Bridge == "" {
		return invalid("%q: a private port needs a bridge", c.Name)
	}
	if c.Bridge != "" {
		return checkForeignName(c.Bridge)
	}
	return nil
}

func checkMAC(m net.HardwareAddr) error {
	if m == nil {
		return nil
	}
	if len(m) != 6 {
		return invalid("MAC address %q: %d bytes, 6 wanted", m, len(m))
	}
	if m[0]&1 != 0 || m[0]|m[1]|m[2]|m[3]|m[4]|m[5] == 0 {
		return invalid("MAC address %s is not a unicast address", m)
	}
	return nil
}

func checkMTU(mtu int) error {
	if mtu < minMTU || mtu > maxMTU {
		return invalid("MTU %d: %d-%d", mtu, minMTU, maxMTU)
	}
	return nil
}

func checkAddress(p netip.Prefix) error {
	if !p.IsValid() || p.Addr().Zone() != "" || p.Addr().Is4In6() {
		return invalid("address %v: an IPv4 or IPv6 address with a prefix length, without zone", p)
	}
	if p.Addr().IsUnspecified() || p.Addr().IsMulticast() {
		return invalid("address %v cannot be an interface's", p)
	}
	return nil
}

func (s *TapSpec) check() error {
	if s.Queues < 0 || s.Queues > maxQueues {
		return invalid("tap %q: %d queues, at most %d", s.Name, s.Queues, maxQueues)
	}
	return s.Common.check()
}

func (s *PairSpec) check() error {
	if err := CheckName(s.Peer); err != nil {
		return err
	}
	if s.Peer == s.Name {
		return invalid("pair %q: both ends have one name", s.Name)
	}
	if err := checkMAC(s.PeerMAC); err != nil {
		return err
	}
	return s.Common.check()
}

func (s *VLANSpec) check() error {
	if s.ID < 1 || s.ID > 4094 {
		return invalid("vlan %q: ID %d, 1-4094 wanted", s.Name, s.ID)
	}
	if err := checkForeignName(s.Parent); err != nil {
		return err
	}
	return s.Common.check()
}

func (s *VXLANSpec) check() error {
	if s.VNI >= 1<<24 {
		return invalid("vxlan %q: VNI %d has more than 24 bits", s.Name, s.VNI)
	}
	for _, a := range []netip.Addr{s.Local, s.Remote} {
		if a.IsValid() && (a.Zone() != "" || a.Is4In6() || a.IsUnspecified()) {
			return invalid("vxlan %q: %v cannot be an end of a tunnel", s.Name, a)
		}
	}
	if s.Local.IsValid() && s.Local.IsMulticast() {
		return invalid("vxlan %q: the local address %v is a multicast group", s.Name, s.Local)
	}
	if s.Local.IsValid() && s.Remote.IsValid() && s.Local.Is4() != s.Remote.Is4() {
		return invalid("vxlan %q: %v and %v are of different families", s.Name, s.Local, s.Remote)
	}
	if s.Remote.IsValid() && s.Remote.IsMulticast() && s.Parent == "" {
		return invalid("vxlan %q: a multicast group needs a parent interface", s.Name)
	}
	if s.Parent != "" {
		if err := checkForeignName(s.Parent); err != nil {
			return err
		}
	}
	return s.Common.check()
}
