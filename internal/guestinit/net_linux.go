// SPDX-License-Identifier: BSD-2-Clause

package guestinit

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/skepvm/skep/internal/testguest"
	"github.com/vishvananda/netlink"
)

var netCommands = map[string]handler{
	"nets":      {0, nets},
	"net-up":    {2, netUp},
	"tcp-serve": {1, tcpServe},
	"tcp-send":  {3, tcpSend},
	"tcp-rr":    {3, tcpRoundTrips},
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

// What a connection does is its first 17 bytes: an operation and two numbers.
const (
	opSend = 's' // length, unused: sum it, answer the sum
	opTrip = 'r' // rounds, size: answer each with itself
)

func tcpServe(_ context.Context, g *guest, a []string) (string, error) {
	l, err := net.Listen("tcp", ":"+a[0])
	if err != nil {
		return "", err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if err := tcpAnswer(c); err != nil && !errors.Is(err, io.EOF) {
					g.say("EVENT tcp-error %v", err)
				}
			}()
		}
	}()
	return "", nil
}

func tcpAnswer(c net.Conn) error {
	r := bufio.NewReaderSize(c, 256<<10)
	var h [17]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return err
	}
	first, second := binary.BigEndian.Uint64(h[1:]), binary.BigEndian.Uint64(h[9:])
	switch h[0] {
	case opSend:
		var sum testguest.Sum
		buf := make([]byte, 256<<10)
		for first > 0 {
			p := buf[:min(first, uint64(len(buf)))]
			if _, err := io.ReadFull(r, p); err != nil {
				return err
			}
			sum.Add(p)
			first -= uint64(len(p))
		}
		_, err := fmt.Fprintln(c, sum)
		return err
	case opTrip:
		if second > 1<<20 {
			return fmt.Errorf("a round of %d bytes", second)
		}
		buf := make([]byte, second)
		for range first {
			if _, err := io.ReadFull(r, buf); err != nil {
				return err
			}
			if _, err := c.Write(buf); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("unknown operation %q", h[0])
}

func dial(address string, op byte, first, second uint64) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", address, time.Minute)
	if err != nil {
		return nil, err
	}
	h := []byte{op}
	h = binary.BigEndian.AppendUint64(h, first)
	h = binary.BigEndian.AppendUint64(h, second)
	if _, err := c.Write(h); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func tcpSend(_ context.Context, _ *guest, a []string) (string, error) {
	n, err := numbers(a[1:3])
	if err != nil {
		return "", err
	}
	begin := time.Now()
	c, err := dial(a[0], opSend, n[0], 0)
	if err != nil {
		return "", err
	}
	defer c.Close()
	var sum testguest.Sum
	buf := make([]byte, 256<<10)
	for offset := uint64(0); offset < n[0]; {
		p := buf[:min(n[0]-offset, uint64(len(buf)))]
		testguest.Pattern(p, n[1], offset)
		sum.Add(p)
		if _, err := c.Write(p); err != nil {
			return "", err
		}
		offset += uint64(len(p))
	}
	theirs, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %s %d", strings.TrimSpace(theirs), sum, time.Since(begin).Nanoseconds()), nil
}

func tcpRoundTrips(_ context.Context, _ *guest, a []string) (string, error) {
	n, err := numbers(a[1:3])
	if err != nil {
		return "", err
	}
	c, err := dial(a[0], opTrip, n[0], n[1])
	if err != nil {
		return "", err
	}
	defer c.Close()
	buf := make([]byte, n[1])
	testguest.Pattern(buf, 1, 0)
	begin := time.Now()
	for range n[0] {
		if _, err := c.Write(buf); err != nil {
			return "", err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return "", err
		}
	}
	return strconv.FormatInt(time.Since(begin).Nanoseconds(), 10), nil
}
