// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"syscall"
)

// Tap is a tap that was just made: the description, and the descriptors to
// hand to the process that moves its frames, one a queue.
type Tap struct {
	Interface
	Files []*os.File
}

// Close closes the descriptors. On Linux a tap without Persist goes with them.
func (t *Tap) Close() error { return closeAll(t.Files) }

func closeAll(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// CreateBridge makes a bridge; a name that is taken is ErrExists.
func (c *Conn) CreateBridge(s BridgeSpec) (Interface, error) {
	if err := s.check(); err != nil {
		return Interface{}, err
	}
	s.defaultMAC()
	i, _, err := c.create("create bridge", &s.Common, func(scratch string) (made, error) {
		return c.k.createBridge(scratch, &s)
	})
	return i, err
}

func (s *BridgeSpec) defaultMAC() {
	if s.MAC == nil {
		s.MAC = MACFor("bridge "+s.Owner+" "+s.Name, 0)
	}
}

// EnsureBridge makes a bridge, or mends the one that the same owner made
// before: address, MTU, MAC, up. A bridge of somebody else is ErrExists and
// ErrForeign, and is not touched. Addresses that the spec lacks are removed.
func (c *Conn) EnsureBridge(s BridgeSpec) (Interface, error) {
	i, err := c.CreateBridge(s)
	if !errors.Is(err, ErrExists) {
		return i, err
	}
	i, err = c.Get(s.Name)
	if err != nil {
		return i, err
	}
	if !i.Ours || i.Owner != s.Owner || i.Kind != KindBridge {
		return i, fmt.Errorf("netif: bridge %q: %w: %w: it is a %s of owner %q", s.Name, ErrExists, ErrForeign, i.Kind, i.Owner)
	}
	s.defaultMAC()
	if !slices.Equal(i.MAC, s.MAC) {
		if err := c.SetMAC(s.Name, s.MAC); err != nil {
			return i, err
		}
	}
	if s.MTU != 0 && i.MTU != s.MTU {
		if err := c.SetMTU(s.Name, s.MTU); err != nil {
			return i, err
		}
	}
	for _, a := range i.Addresses {
		// The kernel gives every IPv6 interface a link-local address itself.
		if !slices.Contains(s.Addresses, a) && !a.Addr().IsLinkLocalUnicast() {
			if err := c.RemoveAddress(s.Name, a); err != nil {
				return i, err
			}
		}
	}
	for _, a := range s.Addresses {
		if err := c.AddAddress(s.Name, a); err != nil {
			return i, err
		}
	}
	for _, g := range s.Groups {
		if err := c.AddGroup(s.Name, g); err != nil {
			return i, err
		}
	}
	if err := c.SetUp(s.Name, s.Up); err != nil {
		return i, err
	}
	return c.Get(s.Name)
}

// CreateTap makes a tap and opens it; a name that is taken is ErrExists.
func (c *Conn) CreateTap(s TapSpec) (*Tap, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	i, m, err := c.create("create tap", &s.Common, func(scratch string) (made, error) {
		return c.k.createTap(scratch, &s)
	})
	if err != nil {
		return nil, err
	}
	return &Tap{Interface: i, Files: m.files}, nil
}

// CreatePair makes two interfaces joined back to back and returns the one
// called s.Name. A name that is taken is ErrExists.
func (c *Conn) CreatePair(s PairSpec) (Interface, error) {
	if err := s.check(); err != nil {
		return Interface{}, err
	}
	if _, err := c.k.get(s.Peer); err == nil {
		return Interface{}, wrap("create pair", s.Peer, ErrExists)
	}
	peer := scratchName()
	i, _, err := c.create("create pair", &s.Common, func(scratch string) (made, error) {
		m, err := c.k.createPair(scratch, peer, &s)
		if err != nil {
			return m, err
		}
		err = func() error {
			if err := c.k.setDescription(peer, mark{owner: s.Owner, dev: m.dev}.String()); err != nil {
				return err
			}
			if s.PeerMAC != nil {
				if err := c.k.setMAC(peer, s.PeerMAC); err != nil {
					return err
				}
			}
			if s.MTU != 0 {
				if err := c.k.setMTU(peer, s.MTU); err != nil {
					return err
				}
			}
			if err := c.k.rename(peer, s.Peer); err != nil {
				return wrap("rename the peer to", s.Peer, err)
			}
			if s.PeerUp {
				return c.k.setUp(s.Peer, true)
			}
			return nil
		}()
		if err != nil {
			return m, errors.Join(err, c.k.destroy(scratch))
		}
		return m, nil
	})
	return i, err
}

// CreateVLAN makes a VLAN of a parent interface.
func (c *Conn) CreateVLAN(s VLANSpec) (Interface, error) {
	if err := s.check(); err != nil {
		return Interface{}, err
	}
	i, _, err := c.create("create vlan", &s.Common, func(scratch string) (made, error) {
		return c.k.createVLAN(scratch, &s)
	})
	return i, err
}

// CreateVXLAN makes a VXLAN tunnel.
func (c *Conn) CreateVXLAN(s VXLANSpec) (Interface, error) {
	if err := s.check(); err != nil {
		return Interface{}, err
	}
	if s.Port == 0 {
		s.Port = 4789 // IANA, RFC 7348 section 8
	}
	i, _, err := c.create("create vxlan", &s.Common, func(scratch string) (made, error) {
		return c.k.createVXLAN(scratch, &s)
	})
	return i, err
}

// create makes an interface under a scratch name, marks it, sets it up and then
// gives it its name: of what a crash leaves either tells Sweep whose it is. On
// FreeBSD, where the kernel names it first, the scratch name is its description by then;
// VLANs and vxlans have a moment without either (cloneAs).
func (c *Conn) create(op string, s *Common, mk func(scratch string) (made, error)) (_ Interface, m made, err error) {
	if _, err := c.k.get(s.Name); err == nil {
		return Interface{}, made{}, wrap(op, s.Name, ErrExists)
	}
	if s.Bridge != "" {
		b, err := c.Get(s.Bridge)
		if err != nil {
			return Interface{}, made{}, wrap(op, s.Name, err)
		}
		if b.Kind != KindBridge {
			return Interface{}, made{}, wrap(op, s.Name, invalid("%q is not a bridge", s.Bridge))
		}
	}
	name := scratchName()
	m, err = mk(name)
	if err != nil {
		return Interface{}, made{}, wrap(op, s.Name, err)
	}
	defer func() {
		if err != nil {
			// The descriptors first: FreeBSD's tap does not go while it is open.
			cerr := closeAll(m.files)
			derr := c.k.destroy(name)
			if errors.Is(wrap("", "", derr), ErrNotFound) {
				derr = nil // it went with its descriptor
			}
			err = errors.Join(wrap(op, s.Name, err), cerr, derr)
			m = made{}
		}
	}()
	mk2 := mark{owner: s.Owner, dev: m.dev}
	if !c.k.hasGroups() {
		mk2.groups = slices.Sorted(slices.Values(s.Groups))
	}
	if err := c.k.setDescription(name, mk2.String()); err != nil {
		return Interface{}, m, fmt.Errorf("mark: %w", err)
	}
	if s.MAC != nil {
		if err := c.k.setMAC(name, s.MAC); err != nil {
			return Interface{}, m, fmt.Errorf("MAC address %s: %w", s.MAC, err)
		}
	}
	if s.MTU != 0 {
		if err := c.k.setMTU(name, s.MTU); err != nil {
			return Interface{}, m, fmt.Errorf("MTU %d: %w", s.MTU, err)
		}
	}
	if err := c.k.rename(name, s.Name); err != nil {
		return Interface{}, m, fmt.Errorf("name: %w", err)
	}
	name = s.Name
	if err := c.furnish(s); err != nil {
		return Interface{}, m, err
	}
	i, err := c.Get(s.Name)
	return i, m, err
}

// furnish does what can wait until the interface has its name.
func (c *Conn) furnish(s *Common) error {
	if c.k.hasGroups() {
		for _, g := range s.Groups {
			if err := c.k.addGroup(s.Name, g); err != nil {
				return fmt.Errorf("group %s: %w", g, err)
			}
		}
	}
	if s.Bridge != "" {
		if err := c.AddMember(s.Bridge, s.Name, s.Private); err != nil {
			return err
		}
	}
	for _, a := range s.Addresses {
		if err := c.AddAddress(s.Name, a); err != nil {
			return err
		}
	}
	if s.Up {
		return c.SetUp(s.Name, true)
	}
	return nil
}

// A scratch name holds the process that made it, so that a later one can tell
// what a crash left: skep, 6 hexadecimal digits of process id, 5 at random.
var scratchRE = regexp.MustCompile(`^skep([0-9a-f]{6})[0-9a-f]{5}$`)

func scratchName() string { return scratchNameOf(os.Getpid()) }

func scratchNameOf(pid int) string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails
	return fmt.Sprintf("skep%06x%s", pid&0xffffff, hex.EncodeToString(b[:])[:5])
}

// abandoned tells whether name is a scratch name of a process that is gone.
func abandoned(name string) bool {
	m := scratchRE.FindStringSubmatch(name)
	if m == nil {
		return false
	}
	pid, err := strconv.ParseInt(m[1], 16, 32)
	if err != nil || pid == 0 {
		return false
	}
	return errors.Is(syscall.Kill(int(pid), 0), syscall.ESRCH)
}

// Sweep removes every interface of skep's for which drop answers true, and what
// processes that are gone left half-made, but for what cloneAs tells of. It returns the
// names of what it removed; an error does not keep it from the rest.
func (c *Conn) Sweep(drop func(Interface) bool) (removed []string, err error) {
	all, err := c.List()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, i := range all {
		if !(i.Ours && drop(i)) && !abandoned(i.Name) && !abandoned(i.Description) {
			continue
		}
		err := wrap("destroy", i.Name, c.k.destroy(i.Name))
		switch {
		case err == nil:
			removed = append(removed, i.Name)
		case errors.Is(err, ErrNotFound): // the other end of a pair took it along
		default:
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}
