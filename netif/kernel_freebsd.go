// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/netif/internal/ifabi"
)

// freebsd speaks the ioctls of netintro(4), bridge(4), vxlan(4), vlan(4) and
// tap(4).
//
// A clone is made under a name of the kernel's choosing and renamed (cloneNamed). Its own
// name is kept in the mark (mark.dev): a tap's device node has it, both ends of
// an epair are found by it, and a vxlan's sysctls are under it.
type freebsd struct {
	inet  int // sockets
	inet6 int // -1 without IPv6
}

// Groups that the kernel puts every interface, or every clone of a kind, into.
var kindGroups = map[string]Kind{
	"bridge": KindBridge, "tap": KindTap, "epair": KindPair, "vlan": KindVLAN, "vxlan": KindVXLAN,
}

const groupAll = "all"

// modules that make a kind of clone, where the kernel does not have it built in.
var modules = map[string]string{
	"bridge": "if_bridge", "tap": "if_tuntap", "epair": "if_epair", "vlan": "if_vlan", "vxlan": "if_vxlan",
}

func openKernel() (kernel, error) {
	s4, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	s6, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		s6 = -1
	}
	return &freebsd{inet: s4, inet6: s6}, nil
}

func (k *freebsd) close() error {
	err := unix.Close(k.inet)
	if k.inet6 >= 0 {
		err = errors.Join(err, unix.Close(k.inet6))
	}
	return err
}

func (k *freebsd) hasGroups() bool { return true }

func nameOf(s string) (n ifabi.Name) {
	copy(n[:len(n)-1], s)
	return n
}

func nameText(n ifabi.Name) string {
	b, _, _ := bytes.Cut(n[:], []byte{0})
	return string(b)
}

func request(name string) *ifabi.Ifreq { return &ifabi.Ifreq{Name: nameOf(name)} }

// closePatience is how long destroy waits for whoever has a tap open: a worker that
// ends, mostly.
const closePatience = 10 * time.Second

// destroy waits by itself: the kernel's own waiting for a tap to be closed has no
// end, and nobody makes or destroys any interface meanwhile.
func (k *freebsd) destroy(name string) error {
	for end := time.Now().Add(closePatience); k.isOpen(name); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("it is still open: %w", unix.EBUSY)
		}
	}
	return ioctl(k.inet, ifabi.SIOCIFDESTROY, request(name))
}

// isOpen says that some process has the tap open: its status has a line of who
// opened it (if_tuntap.c). Other interfaces have none.
func (k *freebsd) isOpen(name string) bool {
	s := &ifabi.Ifstat{Name: nameOf(name)}
	return ioctl(k.inet, ifabi.SIOCGIFSTATUS, s) == nil && bytes.Contains(s.ASCII[:], []byte("Opened by PID"))
}

func (k *freebsd) rename(from, to string) error {
	n := nameOf(to)
	return ioctl(k.inet, ifabi.SIOCSIFNAME, &ifabi.IfreqData[ifabi.Name]{Name: nameOf(from), Data: &n})
}

func (k *freebsd) setDescription(name, text string) error {
	b := append([]byte(text), 0)
	return ioctl(k.inet, ifabi.SIOCSIFDESCR, &ifabi.IfreqBuffer{Name: nameOf(name), Length: uint64(len(b)), Buffer: &b[0]})
}

func (k *freebsd) description(name string) (string, error) {
	b := make([]byte, 1024) // the kernel's own limit is below, and tunable
	r := &ifabi.IfreqBuffer{Name: nameOf(name), Length: uint64(len(b)), Buffer: &b[0]}
	err := ioctl(k.inet, ifabi.SIOCGIFDESCR, r)
	switch {
	case errors.Is(err, unix.ENOMSG):
		return "", nil // it has none
	case err != nil:
		return "", err
	case r.Buffer == nil:
		return "", nil // longer than any of ours
	}
	text, _, _ := bytes.Cut(b, []byte{0})
	return string(text), nil
}

func (k *freebsd) setUp(name string, up bool) error {
	r := request(name)
	if err := ioctl(k.inet, ifabi.SIOCGIFFLAGS, r); err != nil {
		return err
	}
	// ifr_flags is the low half; the high one in ifr_flagshigh stays.
	flags := binary.LittleEndian.Uint16(r.Ifru[:])
	if up {
		flags |= ifabi.IFF_UP
	} else {
		flags &^= ifabi.IFF_UP
	}
	binary.LittleEndian.PutUint16(r.Ifru[:], flags)
	return ioctl(k.inet, ifabi.SIOCSIFFLAGS, r)
}

func (k *freebsd) setMTU(name string, mtu int) error {
	r := request(name)
	binary.LittleEndian.PutUint32(r.Ifru[:], uint32(mtu))
	return ioctl(k.inet, ifabi.SIOCSIFMTU, r)
}

func (k *freebsd) setMAC(name string, mac net.HardwareAddr) error {
	r := request(name)
	r.Ifru[0], r.Ifru[1] = byte(len(mac)), ifabi.AF_LINK
	copy(r.Ifru[2:], mac)
	return ioctl(k.inet, ifabi.SIOCSIFLLADDR, r)
}

func (k *freebsd) addGroup(name, group string) error {
	err := ioctl(k.inet, ifabi.SIOCAIFGROUP, &ifabi.GroupreqName{Name: nameOf(name), Group: nameOf(group)})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func (k *freebsd) removeGroup(name, group string) error {
	err := ioctl(k.inet, ifabi.SIOCDIFGROUP, &ifabi.GroupreqName{Name: nameOf(name), Group: nameOf(group)})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// groups and groupMembers are the same request but for its number: names in a
// list whose length the kernel tells first. A missing interface is ENXIO, a
// missing group ENOENT.
func (k *freebsd) groups(name string) ([]string, error) {
	return k.names(ifabi.SIOCGIFGROUP, name)
}

func (k *freebsd) groupMembers(group string) ([]string, error) {
	names, err := k.names(ifabi.SIOCGIFGMEMB, group)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return names, err
}

// listTries bounds the repetition of a two-step request whose answer grows
// between the steps.
const listTries = 16

func (k *freebsd) names(req uint32, name string) (out []string, err error) {
	for range listTries {
		r := &ifabi.Groupreq{Name: nameOf(name)}
		if err = ioctl(k.inet, req, r); err != nil || r.Len == 0 {
			return nil, err
		}
		list := make([]ifabi.Ifgreq, r.Len/16+4)
		r.Len, r.Groups = uint32(len(list)*16), &list[0]
		err = ioctl(k.inet, req, r)
		if errors.Is(err, unix.EINVAL) {
			continue // it grew
		}
		if err != nil {
			return nil, err
		}
		for _, g := range list[:min(int(r.Len/16), len(list))] {
			if n := nameText(g.Name); n != "" {
				out = append(out, n)
			}
		}
		return out, nil
	}
	return nil, err
}

// port is what a bridge says of a member.
type port struct {
	bridge  string
	private bool
}

// ports maps the members of all bridges.
func (k *freebsd) ports() (map[string]port, error) {
	bridges, err := k.groupMembers("bridge")
	if err != nil {
		return nil, err
	}
	out := map[string]port{}
	for _, b := range bridges {
		members, err := k.bridgeMembers(b)
		if errors.Is(err, unix.ENXIO) {
			continue // gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		for _, m := range members {
			out[nameText(m.Ifsname)] = port{b, m.Ifsflags&ifabi.IFBIF_PRIVATE != 0}
		}
	}
	return out, nil
}

func (k *freebsd) bridgeMembers(bridge string) ([]ifabi.Bridgereq, error) {
	const entry = 80
	for n := 64; ; n *= 2 {
		list := make([]ifabi.Bridgereq, n)
		conf := &ifabi.Bridgelist{Len: uint32(n * entry), Req: &list[0]}
		if err := drv(k, ifabi.SIOCGDRVSPEC, bridge, ifabi.BRDGGIFS, conf); err != nil {
			return nil, err
		}
		// The kernel fills what there is room for.
		if got := int(conf.Len / entry); got < n {
			return list[:got], nil
		}
	}
}

// drv is a request to an interface's driver.
func drv[T any](k *freebsd, req uint32, name string, cmd uint64, arg *T) error {
	return ioctl(k.inet, req, &ifabi.Drv[T]{Name: nameOf(name), Cmd: cmd, Len: sizeOf(arg), Data: arg})
}

func (k *freebsd) list() ([]Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	ports, err := k.ports()
	if err != nil {
		return nil, err
	}
	var out []Interface
	for _, i := range all {
		d, err := k.describe(i, ports)
		if errors.Is(err, unix.ENXIO) {
			continue // gone meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", i.Name, err)
		}
		out = append(out, d)
	}
	return out, nil
}

func (k *freebsd) get(name string) (Interface, error) {
	// The kernel's own answer for a name that is not there, whatever package net
	// makes of it.
	if err := ioctl(k.inet, ifabi.SIOCGIFFLAGS, request(name)); err != nil {
		return Interface{}, err
	}
	i, err := net.InterfaceByName(name)
	if err != nil {
		return Interface{}, fmt.Errorf("%w: %w", unix.ENXIO, err)
	}
	ports, err := k.ports()
	if err != nil {
		return Interface{}, err
	}
	return k.describe(*i, ports)
}

func (k *freebsd) describe(i net.Interface, ports map[string]port) (Interface, error) {
	d := Interface{
		Name: i.Name, Index: i.Index, Kind: KindOther, MTU: i.MTU, MAC: i.HardwareAddr, Up: i.Flags&net.FlagUp != 0,
		Bridge: ports[i.Name].bridge, Private: ports[i.Name].private,
	}
	var err error
	if d.Description, err = k.description(i.Name); err != nil {
		return d, err
	}
	groups, err := k.groups(i.Name)
	if err != nil {
		return d, err
	}
	for _, g := range groups {
		if kind, ok := kindGroups[g]; ok {
			d.Kind = kind
		} else if g != groupAll {
			d.Groups = append(d.Groups, g)
		}
	}
	addrs, err := i.Addrs()
	if err != nil {
		return d, err
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			ip, _ := netip.AddrFromSlice(n.IP)
			ones, _ := n.Mask.Size()
			d.Addresses = append(d.Addresses, netip.PrefixFrom(ip.Unmap(), ones))
		}
	}
	return d, k.describeKind(&d)
}

// describeKind fills in what only one kind of interface has.
func (k *freebsd) describeKind(d *Interface) error {
	switch d.Kind {
	case KindVLAN:
		var v ifabi.Vlanreq
		if err := ioctl(k.inet, ifabi.SIOCGETVLAN, &ifabi.IfreqData[ifabi.Vlanreq]{Name: nameOf(d.Name), Data: &v}); err != nil {
			return fmt.Errorf("vlan: %w", err)
		}
		d.VLAN, d.Parent = int(v.Tag), nameText(v.Parent)
	case KindVXLAN:
		var c ifabi.Vxlancfg
		if err := drv(k, ifabi.SIOCGDRVSPEC, d.Name, ifabi.VXLAN_CMD_GET_CONFIG, &c); err != nil {
			return fmt.Errorf("vxlan: %w", err)
		}
		d.VNI = c.Vni
		if c.McIfindex > 0 {
			if p, err := net.InterfaceByIndex(int(c.McIfindex)); err == nil {
				d.Parent = p.Name
			}
		}
	case KindPair:
		return k.describePair(d)
	}
	return nil
}

// describePair finds the other end by the clone's name in the mark.
func (k *freebsd) describePair(d *Interface) error {
	m, ok := parseMark(d.Description)
	if !ok || m.dev == "" {
		// Not ours: unless renamed, the ends are epairNa and epairNb.
		if base, end := strings.CutSuffix(d.Name, "a"); end && strings.HasPrefix(base, "epair") {
			d.Peer = base + "b"
		} else if base, end := strings.CutSuffix(d.Name, "b"); end && strings.HasPrefix(base, "epair") {
			d.Peer = base + "a"
		}
		return nil
	}
	others, err := k.groupMembers("epair")
	if err != nil {
		return err
	}
	for _, o := range others {
		if o == d.Name {
			continue
		}
		text, err := k.description(o)
		if errors.Is(err, unix.ENXIO) {
			continue
		}
		if err != nil {
			return err
		}
		if om, ok := parseMark(text); ok && om.dev == m.dev {
			d.Peer = o
			return nil
		}
	}
	return nil
}

// clone makes an interface of the kernel's naming and returns its name.
func clone[T any](k *freebsd, kind string, params *T) (string, error) {
	r := &ifabi.IfreqData[T]{Name: nameOf(kind), Data: params}
	if err := ioctl(k.inet, ifabi.SIOCIFCREATE2, r); err != nil {
		return "", err
	}
	return nameText(r.Name), nil
}

// withModule makes an interface, and loads the module of its kind if there is none.
func withModule(kind string, mk func() (string, error)) (string, error) {
	name, err := mk()
	if errors.Is(err, unix.EINVAL) {
		// No such cloner: its module may be missing.
		if lerr := loadModule(modules[kind]); lerr != nil {
			return "", fmt.Errorf("%w: the kernel has no %s, and loading %s.ko failed: %w", errors.ErrUnsupported, kind, modules[kind], lerr)
		}
		name, err = mk()
	}
	if err != nil {
		return "", fmt.Errorf("create %s: %w", kind, err)
	}
	return name, nil
}

// cloneNamed makes an interface that takes no parameters and renames it; dev is the
// name that it had. Its description is the scratch name from the start, so that what a
// crash leaves under the kernel's name tells Sweep whose it was.
func cloneNamed(k *freebsd, kind, scratch string) (dev string, err error) {
	dev, err = withModule(kind, func() (string, error) { return cloneDescribed(kind, scratch) })
	if errors.Is(err, errNoNetlink) {
		return cloneAs[byte](k, kind, nil, scratch)
	}
	if err != nil {
		return "", err
	}
	return dev, k.renameClone(dev, scratch)
}

// cloneAs is cloneNamed by the ioctl, for VLANs, which netlink makes with parameters
// only, and vxlans, whose parameters it does not take. A process that dies between the
// two calls leaves an interface with nothing of ours to it, vxlan3, which Sweep does not
// touch: it might be anybody's. It has no address and is down and in no bridge, and
// whoever finds it may destroy it.
func cloneAs[T any](k *freebsd, kind string, params *T, scratch string) (dev string, err error) {
	dev, err = withModule(kind, func() (string, error) { return clone(k, kind, params) })
	if err != nil {
		return "", err
	}
	return dev, k.renameClone(dev, scratch)
}

func (k *freebsd) renameClone(dev, scratch string) error {
	if err := k.rename(dev, scratch); err != nil {
		return errors.Join(fmt.Errorf("rename %s: %w", dev, err), k.destroy(dev))
	}
	return nil
}

func (k *freebsd) createBridge(scratch string, _ *BridgeSpec) (made, error) {
	_, err := cloneNamed(k, "bridge", scratch)
	return made{}, err
}

func (k *freebsd) createPair(scratch, peerScratch string, _ *PairSpec) (made, error) {
	dev, err := cloneNamed(k, "epair", scratch)
	if err != nil {
		return made{}, err
	}
	base, ok := strings.CutSuffix(dev, "a")
	if !ok {
		return made{}, errors.Join(fmt.Errorf("the kernel called an epair %q", dev), k.destroy(scratch))
	}
	if err := k.rename(base+"b", peerScratch); err != nil {
		return made{}, errors.Join(fmt.Errorf("rename %sb: %w", base, err), k.destroy(scratch))
	}
	return made{dev: base}, nil
}

func (k *freebsd) createVLAN(scratch string, s *VLANSpec) (made, error) {
	if err := ioctl(k.inet, ifabi.SIOCGIFFLAGS, request(s.Parent)); err != nil {
		return made{}, fmt.Errorf("parent %q: %w", s.Parent, err)
	}
	if _, err := cloneAs[byte](k, "vlan", nil, scratch); err != nil {
		return made{}, err
	}
	v := &ifabi.Vlanreq{Parent: nameOf(s.Parent), Tag: uint16(s.ID), Proto: ifabi.ETHERTYPE_VLAN}
	if err := ioctl(k.inet, ifabi.SIOCSETVLAN, &ifabi.IfreqData[ifabi.Vlanreq]{Name: nameOf(scratch), Data: v}); err != nil {
		return made{}, errors.Join(fmt.Errorf("VLAN %d of %q: %w", s.ID, s.Parent, err), k.destroy(scratch))
	}
	return made{}, nil
}
