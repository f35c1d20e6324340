// SPDX-License-Identifier: BSD-2-Clause

package cloudinit

import (
	"errors"
	"net"
	"net/netip"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Network is what a guest's interfaces are set to.
type Network struct {
	Interfaces []Interface
}

// Interface is one of a guest's interfaces, known by its MAC address.
type Interface struct {
	// Name is how the configuration refers to the interface, such as "net0".
	// In version 1, and with SetName, it is also what the guest calls it.
	Name    string
	SetName bool
	MAC     net.HardwareAddr
	MTU     int // bytes; 0 leaves it alone

	DHCP4, DHCP6 bool
	// AcceptRA says whether IPv6 router advertisements count; nil leaves it to
	// the guest.
	AcceptRA  *bool
	Addresses []netip.Prefix
	Gateway4  netip.Addr
	Gateway6  netip.Addr
	Routes    []Route

	Nameservers []netip.Addr
	Search      []string
	// Optional keeps the guest from waiting for the interface at boot.
	Optional bool
}

// Route is a static route.
type Route struct {
	To     netip.Prefix
	Via    netip.Addr
	Metric int // 0 leaves it to the guest
}

func (n *Network) check() error {
	var k checker
	if !k.count("interfaces", len(n.Interfaces)) {
		return errors.Join(k.errs...)
	}
	macs, names := map[string]bool{}, map[string]bool{}
	for i := range n.Interfaces {
		f := &n.Interfaces[i]
		f.check(&k)
		if macs[f.MAC.String()] || names[f.Name] {
			k.add(invalid("interface %q, MAC address %v: there are two of it", f.Name, f.MAC))
		}
		macs[f.MAC.String()], names[f.Name] = true, true
	}
	return errors.Join(k.errs...)
}

func (f *Interface) check(k *checker) {
	if !userRE.MatchString(f.Name) || len(f.Name) > 15 {
		k.add(invalid("interface %q: 1-15 lower-case letters, digits, '_' or '-'", clip(f.Name)))
	}
	if len(f.MAC) != 6 {
		k.add(invalid("interface %q: MAC address %q: 6 bytes are wanted", clip(f.Name), f.MAC))
	}
	if f.MTU != 0 && (f.MTU < 68 || f.MTU > 65535) {
		k.add(invalid("interface %q: MTU %d: 68-65535", clip(f.Name), f.MTU))
	}
	lists := k.count("addresses", len(f.Addresses)) && k.count("routes", len(f.Routes)) &&
		k.count("name servers", len(f.Nameservers)) && k.count("search domains", len(f.Search))
	if !lists {
		return
	}
	for _, a := range f.Addresses {
		if !a.IsValid() || !plain(a.Addr()) || a.Addr().IsMulticast() || a.Addr().IsUnspecified() {
			k.add(invalid("interface %q: address %v", clip(f.Name), a))
		}
	}
	if g := f.Gateway4; g.IsValid() && (!g.Is4() || g.IsUnspecified()) {
		k.add(invalid("interface %q: IPv4 gateway %v", clip(f.Name), g))
	}
	if g := f.Gateway6; g.IsValid() && (!g.Is6() || !plain(g) || g.IsUnspecified()) {
		k.add(invalid("interface %q: IPv6 gateway %v", clip(f.Name), g))
	}
	for _, r := range f.Routes {
		if !r.To.IsValid() || !plain(r.To.Addr()) || !plain(r.Via) || r.To.Addr().Is4() != r.Via.Is4() || r.Metric < 0 {
			k.add(invalid("interface %q: route to %v via %v", clip(f.Name), r.To, r.Via))
		}
	}
	for _, s := range f.Nameservers {
		if !plain(s) {
			k.add(invalid("interface %q: name server %v", clip(f.Name), s))
		}
	}
	for _, s := range f.Search {
		k.add(CheckHostname(s))
	}
}

func plain(a netip.Addr) bool { return a.IsValid() && a.Zone() == "" && !a.Is4In6() }

// gateways sets gateway4 and gateway6 and returns the static routes. netplan
// would rather have a route to 0.0.0.0/0, but cloud-init of Debian 12 makes ::/64
// of one to ::/0 for ifupdown and networkd; every version knows gateway4 and
// gateway6. They cannot say that a gateway is on the link: then it is a route.
func (f *Interface) gateways(m *mapping) []Route {
	var out []Route
	for _, g := range []struct {
		key string
		via netip.Addr
		any netip.Addr
	}{{"gateway4", f.Gateway4, netip.IPv4Unspecified()}, {"gateway6", f.Gateway6, netip.IPv6Unspecified()}} {
		switch {
		case !g.via.IsValid():
		case f.onLink(g.via):
			out = append(out, Route{To: netip.PrefixFrom(g.any, 0), Via: g.via})
		default:
			m.set(g.key, addrNode(g.via))
		}
	}
	return append(out, f.Routes...)
}

// onLink is whether a gateway lies in none of the interface's networks, as with
// the /32 of some clouds: then the guest must be told that it is there.
func (f *Interface) onLink(via netip.Addr) bool {
	if via.IsLinkLocalUnicast() {
		return false
	}
	for _, a := range f.Addresses {
		if a.Contains(via) {
			return false
		}
	}
	// Without addresses, a DHCP server's answer decides what is on the link.
	return len(f.Addresses) > 0
}

func addrNode(a netip.Addr) *yaml.Node     { return str(a.String()) }
func prefixNode(p netip.Prefix) *yaml.Node { return str(p.String()) }

// v2 is the network in version 2, netplan's.
func (n *Network) v2() *yaml.Node {
	ethernets := newMapping()
	for i := range n.Interfaces {
		ethernets.set(n.Interfaces[i].Name, n.Interfaces[i].v2())
	}
	m := newMapping()
	m.set("version", integer(2))
	if !ethernets.empty() {
		m.set("ethernets", ethernets.node())
	}
	return m.node()
}

func (f *Interface) v2() *yaml.Node {
	m := newMapping()
	match := newMapping()
	match.set("macaddress", str(f.MAC.String()))
	m.set("match", match.node())
	if f.SetName {
		m.set("set-name", str(f.Name))
	}
	m.set("dhcp4", boolean(f.DHCP4))
	m.set("dhcp6", boolean(f.DHCP6))
	m.flag("accept-ra", f.AcceptRA)
	if f.Optional {
		m.set("optional", boolean(true))
	}
	if f.MTU != 0 {
		m.set("mtu", integer(f.MTU))
	}
	if len(f.Addresses) > 0 {
		m.set("addresses", list(f.Addresses, prefixNode))
	}
	if routes := f.gateways(m); len(routes) > 0 {
		m.set("routes", list(routes, func(r Route) *yaml.Node {
			n := newMapping()
			n.set("to", prefixNode(r.To))
			n.set("via", addrNode(r.Via))
			if r.Metric != 0 {
				n.set("metric", integer(r.Metric))
			}
			if f.onLink(r.Via) {
				n.set("on-link", boolean(true))
			}
			return n.node()
		}))
	}
	if len(f.Nameservers)+len(f.Search) > 0 {
		ns := newMapping()
		if len(f.Nameservers) > 0 {
			ns.set("addresses", list(f.Nameservers, addrNode))
		}
		ns.strs("search", f.Search)
		m.set("nameservers", ns.node())
	}
	return m.node()
}

// v1 is the network in version 1, which older images and FreeBSD's cloud-init
// read.
func (n *Network) v1() *yaml.Node {
	m := newMapping()
	m.set("version", integer(1))
	config := &yaml.Node{Kind: yaml.SequenceNode}
	for i := range n.Interfaces {
		config.Content = append(config.Content, n.Interfaces[i].v1())
	}
	m.set("config", config)
	return m.node()
}

func (f *Interface) v1() *yaml.Node {
	m := newMapping()
	m.set("type", str("physical"))
	m.set("name", str(f.Name))
	m.set("mac_address", str(f.MAC.String()))
	if f.MTU != 0 {
		m.set("mtu", integer(f.MTU))
	}
	m.flag("accept-ra", f.AcceptRA)
	subnets := &yaml.Node{Kind: yaml.SequenceNode}
	add := func(m *mapping) { subnets.Content = append(subnets.Content, m.node()) }
	for _, d := range []struct {
		on   bool
		kind string
	}{{f.DHCP4, "dhcp4"}, {f.DHCP6, "dhcp6"}} {
		if d.on {
			s := newMapping()
			s.set("type", str(d.kind))
			add(s)
		}
	}
	routes := f.Routes
	var have4, have6 bool
	for i, a := range f.Addresses {
		s := newMapping()
		kind, gateway, have := "static", f.Gateway4, &have4
		if a.Addr().Is6() {
			kind, gateway, have = "static6", f.Gateway6, &have6
		}
		s.set("type", str(kind))
		s.set("address", prefixNode(a))
		if gateway.IsValid() && !*have {
			s.set("gateway", addrNode(gateway))
		}
		*have = true
		if i == 0 {
			if len(f.Nameservers) > 0 {
				s.set("dns_nameservers", list(f.Nameservers, addrNode))
			}
			s.strs("dns_search", f.Search)
			if len(routes) > 0 {
				s.set("routes", list(routes, (Route).v1))
			}
		}
		add(s)
	}
	if len(subnets.Content) > 0 {
		m.set("subnets", subnets)
	}
	return m.node()
}

func (r Route) v1() *yaml.Node {
	m := newMapping()
	m.set("network", addrNode(r.To.Addr()))
	m.set("prefix", integer(r.To.Bits()))
	m.set("netmask", str(netmask(r.To)))
	m.set("gateway", addrNode(r.Via))
	if r.Metric != 0 {
		m.set("metric", integer(r.Metric))
	}
	return m.node()
}

// netmask is dotted for IPv4; version 1 takes the length for IPv6.
func netmask(p netip.Prefix) string {
	if p.Addr().Is4() {
		return net.IP(net.CIDRMask(p.Bits(), 32)).String()
	}
	return strconv.Itoa(p.Bits())
}
