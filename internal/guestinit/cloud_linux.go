// SPDX-License-Identifier: BSD-2-Clause

package guestinit

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// cloud makes of the guest what its seed says and lets the seed's keys log in:
// a cloud guest whose own part of "create to ssh" is as small as can be.
func (g *guest) cloud() error {
	s, err := findSeed()
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(s.hostname)); err != nil {
		return fmt.Errorf("host name %q: %w", s.hostname, err)
	}
	if err := s.setNetwork(); err != nil {
		return err
	}
	return g.serveSSH(s)
}

// findSeed looks at every virtio disk.
func findSeed() (*seed, error) {
	disks, err := filepath.Glob("/dev/vd?")
	if err != nil {
		return nil, err
	}
	for _, path := range disks {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		s, err := readSeed(f)
		f.Close()
		if !errors.Is(err, errNoSeed) {
			return s, err
		}
	}
	return nil, fmt.Errorf("of %d disks: %w", len(disks), errNoSeed)
}

func (s *seed) setNetwork() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, n := range s.nets {
		found := false
		for _, l := range links {
			if l.Attrs().HardwareAddr.String() != n.mac {
				continue
			}
			found = true
			if err := n.set(l); err != nil {
				return fmt.Errorf("interface %s: %w", l.Attrs().Name, err)
			}
		}
		if !found {
			return fmt.Errorf("no interface has the address %s", n.mac)
		}
	}
	return nil
}

func (n *seedNet) set(l netlink.Link) error {
	if n.mtu != 0 {
		if err := netlink.LinkSetMTU(l, n.mtu); err != nil {
			return err
		}
	}
	for _, a := range n.addresses {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}}
		if err := netlink.AddrReplace(l, addr); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	if !n.gateway.IsValid() {
		return nil
	}
	return netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: n.gateway.AsSlice()})
}

// serveSSH lets the seed's keys in: "exec" answers the host name.
func (g *guest) serveSSH(s *seed) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	host, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return err
	}
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if !s.allows(k) {
			return nil, errors.New("not a key of the seed")
		}
		return nil, nil
	}}
	cfg.AddHostKey(host)
	l, err := net.Listen("tcp", ":22")
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if err := session(c, cfg, s.hostname); err != nil {
					g.say("EVENT ssh-error %v", err)
				}
			}()
		}
	}()
	return nil
}

func session(c net.Conn, cfg *ssh.ServerConfig, answer string) error {
	_, channels, requests, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return err
	}
	go ssh.DiscardRequests(requests)
	for n := range channels {
		if n.ChannelType() != "session" {
			_ = n.Reject(ssh.UnknownChannelType, n.ChannelType())
			continue
		}
		ch, requests, err := n.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer ch.Close()
			for r := range requests {
				_ = r.Reply(r.Type == "exec", nil)
				if r.Type != "exec" {
					continue
				}
				_, _ = fmt.Fprintln(ch, answer)
				_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{}))
				return
			}
		}()
	}
	return nil
}
