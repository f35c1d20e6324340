// SPDX-License-Identifier: BSD-2-Clause

package guestinit

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/skepvm/skep/internal/testguest"
	"github.com/vishvananda/netlink"
)

var netCommands = map[string]handler{
	"nets":      {0, nets},
	"net-up":    {2, netUp},
	"net-shape": {3, netShape},
	"tcp-serve": {1, tcpServe},
	"tcp-send":  {3, tcpSend},
	"tcp-rr":    {3, tcpRoundTrips},
	"udp-serve": {1, udpServe},
	"udp-play":  {3, udpPlay},
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func nets(context.Context, *guest, []string) (string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return "", err
	}
	var out []string
	for _, l := range links {
		if a := l.Attrs(); a.Name != "lo" {
			out = append(out, fmt.Sprintf("%s:%s:%d", a.Name, a.HardwareAddr, a.MTU))
		}
	}
	return strings.Join(out, " "), nil
}

func netUp(_ context.Context, _ *guest, a []string) (string, error) {
	link, err := netlink.LinkByName(a[0])
	if err != nil {
		return "", err
	}
	addr, err := netlink.ParseAddr(a[1])
	if err != nil {
		return "", err
	}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return "", err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return "", err
	}
	if len(a) < 3 {
		return "", nil
	}
	gw := net.ParseIP(a[2])
	if gw == nil {
		return "", fmt.Errorf("bad gateway %q", a[2])
	}
	return "", netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gw})
}

func netShape(_ context.Context, _ *guest, a []string) (string, error) {
	n, err := testguest.Numbers(a[1:3])
	if err != nil {
		return "", err
	}
	link, err := netlink.LinkByName(a[0])
	if err != nil {
		return "", err
	}
	if err := netlink.LinkSetMTU(link, int(n[0])); err != nil {
		return "", err
	}
	return "", netlink.LinkSetGSOMaxSegs(link, int(n[1]))
}

func tcpServe(_ context.Context, g *guest, a []string) (string, error) {
	l, err := net.Listen("tcp", ":"+a[0])
	if err != nil {
		return "", err
	}
	go testguest.ServeTCP(l, func(err error) { g.say("EVENT tcp-error %v", err) })
	return "", nil
}

func tcpSend(_ context.Context, _ *guest, a []string) (string, error) {
	n, err := testguest.Numbers(a[1:3])
	if err != nil {
		return "", err
	}
	theirs, ours, took, err := testguest.SendTCP(a[0], n[0], n[1])
	return fmt.Sprintf("%s %s %d", theirs, ours, took.Nanoseconds()), err
}

func tcpRoundTrips(_ context.Context, _ *guest, a []string) (string, error) {
	n, err := testguest.Numbers(a[1:3])
	if err != nil {
		return "", err
	}
	took, err := testguest.TripTCP(a[0], n[0], n[1])
	return strconv.FormatInt(took.Nanoseconds(), 10), err
}

func udpServe(_ context.Context, g *guest, a []string) (string, error) {
	c, err := net.ListenPacket("udp", ":"+a[0])
	if err != nil {
		return "", err
	}
	go func() { g.say("EVENT udp-error %v", testguest.EchoUDP(c)) }()
	return "", nil
}

func udpPlay(_ context.Context, _ *guest, a []string) (string, error) {
	n, err := testguest.Numbers(a[1:3])
	if err != nil {
		return "", err
	}
	lost, err := testguest.PlayUDP(a[0], n[0], n[1])
	return strconv.FormatUint(lost, 10), err
}
