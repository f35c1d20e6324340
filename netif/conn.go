// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Conn is a connection to the network configuration of the kernel, in the
// network namespace (Linux) or vnet (FreeBSD) of the thread that opened it.
// Its methods may be called from many goroutines. Changing anything needs root
// or CAP_NET_ADMIN: without it the error is ErrPermission.
type Conn struct {
	k kernel
}

// Open connects to the kernel. It changes nothing.
func Open() (*Conn, error) {
	k, err := openKernel()
	if err != nil {
		return nil, fmt.Errorf("netif: open: %w", err)
	}
	return &Conn{k: k}, nil
}

// Close gives up the connection; interfaces stay as they are.
func (c *Conn) Close() error { return c.k.close() }

func (c *Conn) finish(i *Interface) {
	m, ok := parseMark(i.Description)
	i.Ours, i.Owner = ok, m.owner
	if !c.k.hasGroups() {
		i.Groups = m.groups
	}
	slices.Sort(i.Groups)
	slices.SortFunc(i.Addresses, netip.Prefix.Compare)
}

// Get describes the interface called name; a missing one is ErrNotFound.
func (c *Conn) Get(name string) (Interface, error) {
	if err := checkForeignName(name); err != nil {
		return Interface{}, err
	}
	i, err := c.k.get(name)
	if err != nil {
		return Interface{}, wrap("describe", name, err)
	}
	c.finish(&i)
	return i, nil
}

// List describes every interface, ours and others, sorted by name.
func (c *Conn) List() ([]Interface, error) {
	all, err := c.k.list()
	if err != nil {
		return nil, fmt.Errorf("netif: list: %w", err)
	}
	for n := range all {
		c.finish(&all[n])
	}
	slices.SortFunc(all, func(a, b Interface) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Members lists the ports of a bridge.
func (c *Conn) Members(bridge string) ([]Interface, error) {
	b, err := c.Get(bridge)
	if err != nil {
		return nil, err
	}
	if b.Kind != KindBridge {
		return nil, invalid("%q is not a bridge", bridge)
	}
	all, err := c.List()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(i Interface) bool { return i.Bridge != bridge }), nil
}

// ours gets an interface that skep made.
func (c *Conn) ours(op, name string) (Interface, error) {
	i, err := c.Get(name)
	if err != nil {
		return i, err
	}
	if !i.Ours {
		return i, fmt.Errorf("netif: %s %q: %w", op, name, ErrForeign)
	}
	return i, nil
}

// Destroy removes an interface that skep made; of a pair both ends go. Any
// other is refused with ErrForeign, a missing one is ErrNotFound.
//
// FreeBSD's tap does not go while anybody has it open, which is waited for, but not
// for longer than ten seconds: then it is ErrBusy.
func (c *Conn) Destroy(name string) error {
	if _, err := c.ours("destroy", name); err != nil {
		return err
	}
	return wrap("destroy", name, c.k.destroy(name))
}

// Rename renames an interface that skep made.
func (c *Conn) Rename(from, to string) error {
	if err := CheckName(to); err != nil {
		return err
	}
	if _, err := c.ours("rename", from); err != nil {
		return err
	}
	return wrap("rename "+from+" to", to, c.k.rename(from, to))
}

// SetOwner writes a new owner into the mark of an interface that skep made.
func (c *Conn) SetOwner(name, owner string) error {
	if err := checkOwner(owner); err != nil {
		return err
	}
	i, err := c.ours("set the owner of", name)
	if err != nil {
		return err
	}
	m, _ := parseMark(i.Description)
	m.owner = owner
	return wrap("describe", name, c.k.setDescription(name, m.String()))
}

// SetUp brings an interface up or down.
func (c *Conn) SetUp(name string, up bool) error {
	if err := checkForeignName(name); err != nil {
		return err
	}
	return wrap("bring up or down", name, c.k.setUp(name, up))
}

// SetMTU sets the MTU in bytes.
func (c *Conn) SetMTU(name string, mtu int) error {
	if err := errors.Join(checkForeignName(name), checkMTU(mtu)); err != nil {
		return err
	}
	return wrap("set the MTU of", name, c.k.setMTU(name, mtu))
}

// SetMAC sets the MAC address.
func (c *Conn) SetMAC(name string, mac net.HardwareAddr) error {
	if mac == nil {
		return invalid("no MAC address")
	}
	if err := errors.Join(checkForeignName(name), checkMAC(mac)); err != nil {
		return err
	}
	return wrap("set the MAC address of", name, c.k.setMAC(name, mac))
}

// AddAddress makes the host answer on an address; one that is there stays.
func (c *Conn) AddAddress(name string, p netip.Prefix) error {
	if err := errors.Join(checkForeignName(name), checkAddress(p)); err != nil {
		return err
	}
	return wrap("add "+p.String()+" to", name, c.k.addAddress(name, p))
}

// RemoveAddress takes an address away; one that is not there is no error.
func (c *Conn) RemoveAddress(name string, p netip.Prefix) error {
	if err := errors.Join(checkForeignName(name), checkAddress(p)); err != nil {
		return err
	}
	return wrap("remove "+p.String()+" from", name, c.k.removeAddress(name, p))
}

// AddMember makes an interface a port of a bridge. A private port does not
// talk to other private ones. A member that is there already only has its
// privacy set; a member of another bridge is ErrBusy.
func (c *Conn) AddMember(bridge, member string, private bool) error {
	if err := errors.Join(checkForeignName(bridge), checkForeignName(member)); err != nil {
		return err
	}
	op := "add to bridge " + bridge
	if err := c.k.addMember(bridge, member); err != nil {
		return wrap(op, member, err)
	}
	return wrap(op+" as a private port", member, c.k.setPrivate(bridge, member, private))
}

// RemoveMember takes a port out of its bridge; one that is in none is no error.
func (c *Conn) RemoveMember(bridge, member string) error {
	if err := errors.Join(checkForeignName(bridge), checkForeignName(member)); err != nil {
		return err
	}
	return wrap("remove from bridge "+bridge, member, c.k.removeMember(bridge, member))
}

// AddGroup puts an interface into a group. Linux has no named groups: there it
// is a word in the mark, and works for interfaces of skep's own only.
func (c *Conn) AddGroup(name, group string) error {
	return c.changeGroup(name, group, true)
}

// RemoveGroup takes an interface out of a group.
func (c *Conn) RemoveGroup(name, group string) error {
	return c.changeGroup(name, group, false)
}

func (c *Conn) changeGroup(name, group string, add bool) error {
	if err := checkGroup(group); err != nil {
		return err
	}
	i, err := c.Get(name)
	if err != nil {
		return err
	}
	op := "change group " + group + " of"
	if slices.Contains(i.Groups, group) == add {
		return nil
	}
	if c.k.hasGroups() {
		if add {
			return wrap(op, name, c.k.addGroup(name, group))
		}
		return wrap(op, name, c.k.removeGroup(name, group))
	}
	m, ok := parseMark(i.Description)
	if !ok {
		return wrap(op, name, fmt.Errorf("%w: the system has no named groups", ErrForeign))
	}
	if add {
		m.groups = append(m.groups, group)
		slices.Sort(m.groups)
	} else {
		m.groups = slices.DeleteFunc(m.groups, func(g string) bool { return g == group })
	}
	if len(m.groups) > groupsRoom {
		return invalid("%q is in %d groups already", name, groupsRoom)
	}
	return wrap(op, name, c.k.setDescription(name, m.String()))
}

// AddForward tells a VXLAN tunnel where a MAC address lives.
func (c *Conn) AddForward(vxlan string, f Forward) error {
	if err := checkForward(vxlan, f); err != nil {
		return err
	}
	return wrap("add a forwarding entry to", vxlan, c.k.addForward(vxlan, f))
}

// RemoveForward takes back AddForward; an absent entry is no error.
func (c *Conn) RemoveForward(vxlan string, f Forward) error {
	if err := checkForward(vxlan, f); err != nil {
		return err
	}
	return wrap("remove a forwarding entry from", vxlan, c.k.removeForward(vxlan, f))
}

// Forwards lists the forwarding entries of a VXLAN tunnel, learned ones too.
func (c *Conn) Forwards(vxlan string) ([]Forward, error) {
	if err := checkForeignName(vxlan); err != nil {
		return nil, err
	}
	f, err := c.k.forwards(vxlan)
	return f, wrap("list the forwarding entries of", vxlan, err)
}

func checkForward(vxlan string, f Forward) error {
	if len(f.MAC) != 6 || f.MAC[0]&1 != 0 {
		return invalid("forwarding entry for %q: not a unicast MAC address", f.MAC)
	}
	if !f.To.IsValid() || f.To.Is4In6() || f.To.Zone() != "" || f.To.IsMulticast() || f.To.IsUnspecified() {
		return invalid("forwarding entry: %v cannot be a tunnel's end", f.To)
	}
	return checkForeignName(vxlan)
}

// OpenTap opens a tap that exists. The spec's VnetHeader and Queues count, its
// other fields do not.
func (c *Conn) OpenTap(name string, s TapSpec) ([]*os.File, error) {
	i, err := c.Get(name)
	if err != nil {
		return nil, err
	}
	if i.Kind != KindTap {
		return nil, invalid("%q is not a tap", name)
	}
	if s.Queues < 0 || s.Queues > maxQueues {
		return nil, invalid("tap %q: %d queues, at most %d", name, s.Queues, maxQueues)
	}
	m, _ := parseMark(i.Description)
	f, err := c.k.openTap(name, m.dev, &s)
	return f, wrap("open", name, err)
}
