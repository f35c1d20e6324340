// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// fake is a kernel in memory, whose n-th change fails when asked to.
type fake struct {
	ifs    map[string]*Interface
	groups bool
	calls  int
	failAt int // 0: never
	log    []string
}

var errInjected = errors.New("injected")

func newFake() *fake { return &fake{ifs: map[string]*Interface{}} }

func (k *fake) step(format string, args ...any) error {
	k.calls++
	k.log = append(k.log, fmt.Sprintf(format, args...))
	if k.calls == k.failAt {
		return errInjected
	}
	return nil
}

func (k *fake) on(name string, do func(*Interface) error) error {
	i, ok := k.ifs[name]
	if !ok {
		return syscall.ENODEV
	}
	return do(i)
}

func (k *fake) change(name, what string, do func(*Interface)) error {
	if err := k.step("%s %s", what, name); err != nil {
		return err
	}
	return k.on(name, func(i *Interface) error { do(i); return nil })
}

func (k *fake) close() error { return nil }
func (k *fake) list() ([]Interface, error) {
	var out []Interface
	for _, i := range k.ifs {
		out = append(out, *i)
	}
	return out, nil
}

func (k *fake) get(name string) (out Interface, err error) {
	err = k.on(name, func(i *Interface) error {
		out = *i
		out.Addresses, out.Groups = slices.Clone(i.Addresses), slices.Clone(i.Groups)
		return nil
	})
	return out, err
}

func (k *fake) create(name string, kind Kind) (made, error) {
	if err := k.step("create %s", kind); err != nil {
		return made{}, err
	}
	k.ifs[name] = &Interface{Name: name, Kind: kind}
	return made{}, nil
}

func (k *fake) createBridge(n string, _ *BridgeSpec) (made, error) { return k.create(n, KindBridge) }
func (k *fake) createVLAN(n string, _ *VLANSpec) (made, error)     { return k.create(n, KindVLAN) }
func (k *fake) createVXLAN(n string, _ *VXLANSpec) (made, error)   { return k.create(n, KindVXLAN) }
func (k *fake) createTap(n string, s *TapSpec) (made, error) {
	m, err := k.create(n, KindTap)
	if err != nil {
		return m, err
	}
	f, err := os.Open(os.DevNull)
	return made{files: []*os.File{f}, dev: "tap9"}, err
}

func (k *fake) createPair(n, peer string, _ *PairSpec) (made, error) {
	m, err := k.create(n, KindPair)
	if err == nil {
		k.ifs[n].Peer = peer
		k.ifs[peer] = &Interface{Name: peer, Kind: KindPair, Peer: n}
	}
	return m, err
}
func (k *fake) openTap(_, _ string, _ *TapSpec) ([]*os.File, error) { return nil, nil }

func (k *fake) destroy(name string) error {
	return k.on(name, func(i *Interface) error {
		delete(k.ifs, name)
		delete(k.ifs, i.Peer)
		return nil
	})
}

func (k *fake) rename(from, to string) error {
	if err := k.step("rename to %s", to); err != nil {
		return err
	}
	if k.ifs[to] != nil {
		return syscall.EEXIST
	}
	return k.on(from, func(i *Interface) error {
		delete(k.ifs, from)
		i.Name, k.ifs[to] = to, i
		if p := k.ifs[i.Peer]; p != nil {
			p.Peer = to
		}
		return nil
	})
}

func (k *fake) setDescription(n, text string) error {
	return k.change(n, "describe", func(i *Interface) { i.Description = text })
}
func (k *fake) setUp(n string, up bool) error {
	return k.change(n, "up", func(i *Interface) { i.Up = up })
}
func (k *fake) setMTU(n string, m int) error {
	return k.change(n, "mtu", func(i *Interface) { i.MTU = m })
}
func (k *fake) setMAC(n string, m net.HardwareAddr) error {
	return k.change(n, "mac", func(i *Interface) { i.MAC = m })
}
func (k *fake) addAddress(n string, p netip.Prefix) error {
	return k.change(n, "address", func(i *Interface) {
		if !slices.Contains(i.Addresses, p) {
			i.Addresses = append(i.Addresses, p)
		}
	})
}
func (k *fake) removeAddress(n string, p netip.Prefix) error {
	return k.change(n, "unaddress", func(i *Interface) {
		i.Addresses = slices.DeleteFunc(i.Addresses, func(q netip.Prefix) bool { return p == q })
	})
}
func (k *fake) addMember(b, n string) error {
	return k.change(n, "member", func(i *Interface) { i.Bridge = b })
}
func (k *fake) removeMember(_, n string) error {
	return k.change(n, "unmember", func(i *Interface) { i.Bridge = "" })
}
func (k *fake) setPrivate(_, n string, p bool) error {
	return k.change(n, "private", func(i *Interface) { i.Private = p })
}
func (k *fake) addForward(string, Forward) error    { return nil }
func (k *fake) removeForward(string, Forward) error { return nil }
func (k *fake) forwards(string) ([]Forward, error)  { return nil, nil }
func (k *fake) hasGroups() bool                     { return k.groups }
func (k *fake) removeGroup(_, _ string) error       { return nil }
func (k *fake) addGroup(n, g string) error {
	return k.change(n, "group", func(i *Interface) { i.Groups = append(i.Groups, g) })
}

func full() Common {
	return Common{
		Name: "x0", Owner: "store/vm1", MAC: MACFor("m", 0), MTU: 1400, Up: true, Groups: []string{"skep", "net-a"},
		Addresses: []netip.Prefix{prefix("10.0.0.1/24"), prefix("2001:db8::1/64")}, Bridge: "br0", Private: true,
	}
}

// TestCreateUndoes lets every change of every creation fail in turn: nothing
// may be left, and no descriptor stays open.
func TestCreateUndoes(t *testing.T) {
	makers := map[string]func(*Conn) error{
		"bridge": func(c *Conn) error {
			s := full()
			s.Bridge, s.Private = "", false
			_, err := c.CreateBridge(BridgeSpec{s})
			return err
		},
		"tap": func(c *Conn) error {
			tap, err := c.CreateTap(TapSpec{Common: full()})
			if err == nil {
				err = tap.Close()
			}
			return err
		},
		"pair": func(c *Conn) error {
			_, err := c.CreatePair(PairSpec{Common: full(), Peer: "y0", PeerMAC: MACFor("m", 1), PeerUp: true})
			return err
		},
		"vlan": func(c *Conn) error {
			_, err := c.CreateVLAN(VLANSpec{Common: full(), Parent: "br0", ID: 7})
			return err
		},
		"vxlan": func(c *Conn) error {
			_, err := c.CreateVXLAN(VXLANSpec{Common: full(), VNI: 7})
			return err
		},
	}
	for name, mk := range makers {
		for _, groups := range []bool{false, true} {
			n := 0
			for {
				n++
				k := newFake()
				k.groups, k.failAt = groups, n
				k.ifs["br0"] = &Interface{Name: "br0", Kind: KindBridge}
				err := mk(&Conn{k})
				if k.calls < n { // it has no n-th change
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					break
				}
				if !errors.Is(err, errInjected) || !strings.Contains(err.Error(), "x0") && !strings.Contains(err.Error(), "y0") {
					t.Errorf("%s, change %d: %v", name, n, err)
				}
				if len(k.ifs) != 1 {
					t.Errorf("%s, change %d (%v): left %v", name, n, k.log, slices.Collect(maps.Keys(k.ifs)))
				}
			}
			if n < 6 {
				t.Fatalf("%s: only %d changes", name, n)
			}
		}
	}
}

func TestCreateIsWhatWasAsked(t *testing.T) {
	for _, groups := range []bool{false, true} {
		k := newFake()
		k.groups = groups
		c := &Conn{k}
		if _, err := c.CreateBridge(BridgeSpec{Common{Name: "br0", Owner: "store"}}); err != nil {
			t.Fatal(err)
		}
		tap, err := c.CreateTap(TapSpec{Common: full()})
		if err != nil {
			t.Fatal(err)
		}
		defer tap.Close()
		want := Interface{
			Name: "x0", Kind: KindTap, MTU: 1400, MAC: MACFor("m", 0), Up: true, Bridge: "br0", Private: true,
			Addresses: full().Addresses, Groups: []string{"net-a", "skep"}, Owner: "store/vm1", Ours: true,
			Description: tap.Description,
		}
		if fmt.Sprintf("%+v", tap.Interface) != fmt.Sprintf("%+v", want) {
			t.Errorf("made %+v\nwant %+v", tap.Interface, want)
		}
		if m, _ := parseMark(tap.Description); m.dev != "tap9" {
			t.Errorf("mark %q lacks the device", tap.Description)
		}
		if _, err := c.CreateTap(TapSpec{Common: full()}); !errors.Is(err, ErrExists) {
			t.Errorf("again: %v", err)
		}
		if err := c.AddGroup("x0", "third"); err != nil {
			t.Fatal(err)
		}
		if err := c.SetOwner("x0", "other"); err != nil {
			t.Fatal(err)
		}
		if i, err := c.Get("x0"); err != nil || i.Owner != "other" || !slices.Equal(i.Groups, []string{"net-a", "skep", "third"}) {
			t.Errorf("%+v, %v", i, err)
		}
		if m, err := c.Members("br0"); err != nil || len(m) != 1 || m[0].Name != "x0" {
			t.Errorf("members %+v, %v", m, err)
		}
	}
}

func TestForeignInterfacesAreLeftAlone(t *testing.T) {
	k := newFake()
	c := &Conn{k}
	k.ifs["eth0"] = &Interface{Name: "eth0", Description: "skep uplink"}
	k.ifs["br0"] = &Interface{Name: "br0", Kind: KindBridge}
	for what, err := range map[string]error{
		"destroy": c.Destroy("eth0"),
		"rename":  c.Rename("eth0", "x"),
		"owner":   c.SetOwner("eth0", "x"),
		"group":   c.AddGroup("eth0", "x"),
		"ensure":  func() error { _, err := c.EnsureBridge(BridgeSpec{Common{Name: "br0", Owner: "o"}}); return err }(),
	} {
		if !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if k.calls != 0 {
		t.Errorf("changed: %v", k.log)
	}
	if err := c.Destroy("nope"); !errors.Is(err, ErrNotFound) {
		t.Errorf("missing: %v", err)
	}
}

func TestEnsureBridgeMends(t *testing.T) {
	k := newFake()
	c := &Conn{k}
	s := BridgeSpec{Common{Name: "br0", Owner: "o", MTU: 9000, Up: true, Addresses: []netip.Prefix{prefix("10.0.0.1/24")}, Groups: []string{"g"}}}
	first, err := c.EnsureBridge(s)
	if err != nil {
		t.Fatal(err)
	}
	b := k.ifs["br0"]
	b.MTU, b.MAC, b.Up = 1500, MACFor("z", 0), false
	b.Addresses = []netip.Prefix{prefix("10.9.0.1/24"), prefix("fe80::1/64")}
	again, err := c.EnsureBridge(s)
	if err != nil {
		t.Fatal(err)
	}
	first.Addresses = append(first.Addresses, prefix("fe80::1/64"))
	if fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", first) {
		t.Errorf("mended %+v\nwant   %+v", again, first)
	}
	s.Owner = "another"
	if _, err := c.EnsureBridge(s); !errors.Is(err, ErrForeign) || !errors.Is(err, ErrExists) {
		t.Errorf("another owner's: %v", err)
	}
}

func TestSweep(t *testing.T) {
	k := newFake()
	c := &Conn{k}
	for name, owner := range map[string]string{"a0": "s/1", "b0": "s/2", "c0": "other/1"} {
		if _, err := c.CreateBridge(BridgeSpec{Common{Name: name, Owner: owner}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.CreatePair(PairSpec{Common: Common{Name: "p0", Owner: "s/2"}, Peer: "p1"}); err != nil {
		t.Fatal(err)
	}
	dead, alive := scratchNameOf(0x3fffff-1), scratchName() // beyond pid_max of this test's host
	k.ifs[dead] = &Interface{Name: dead}
	k.ifs[alive] = &Interface{Name: alive}
	k.ifs["eth0"] = &Interface{Name: "eth0"}
	// FreeBSD's, before it has the scratch name.
	k.ifs["tap3"] = &Interface{Name: "tap3", Description: scratchNameOf(0x3fffff - 1)}
	k.ifs["tap4"] = &Interface{Name: "tap4", Description: scratchName()}
	k.ifs["tap5"] = &Interface{Name: "tap5", Description: "of " + dead}
	removed, err := c.Sweep(func(i Interface) bool { return strings.HasPrefix(i.Owner, "s/") && i.Owner != "s/1" })
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Sorted(slices.Values([]string{"b0", "p0", "tap3", dead}))
	if slices.Sort(removed); !slices.Equal(removed, want) {
		t.Errorf("removed %v, want %v", removed, want)
	}
	left := slices.Sorted(maps.Keys(k.ifs))
	if want := slices.Sorted(slices.Values([]string{"a0", "c0", "eth0", "tap4", "tap5", alive})); !slices.Equal(left, want) {
		t.Errorf("left %v, want %v", left, want)
	}
}

func TestErrorsSayWhat(t *testing.T) {
	for no, want := range map[syscall.Errno]error{
		syscall.EEXIST: ErrExists, syscall.ENODEV: ErrNotFound, syscall.ENXIO: ErrNotFound,
		syscall.EPERM: ErrPermission, syscall.EACCES: ErrPermission, syscall.EBUSY: ErrBusy,
		syscall.EOPNOTSUPP: errors.ErrUnsupported,
	} {
		err := wrap("create bridge", "br0", fmt.Errorf("inner: %w", no))
		if !errors.Is(err, want) || !errors.Is(err, no) || !strings.Contains(err.Error(), `create bridge "br0"`) {
			t.Errorf("%v: %v", no, err)
		}
	}
	if wrap("x", "y", nil) != nil {
		t.Error("nil is wrapped")
	}
}
