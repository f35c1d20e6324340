// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCheckName(t *testing.T) {
	for _, ok := range []string{"a", "skep0", "vm-abcdefghijk", "br.100", strings.Repeat("x", MaxName)} {
		if err := CheckName(ok); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	for _, bad := range []string{"", ".", "..", "0a", "-a", "a/b", "a b", "a\x00", "tap%d", "a:1", "é", "a\n", strings.Repeat("x", MaxName+1), scratchName()} {
		if err := CheckName(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestNamesAndAddressesOfMachines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id, nic := rapid.String().Draw(t, "id"), rapid.IntRange(0, 1000).Draw(t, "nic")
		name, mac := NameFor("vm", id, nic), MACFor(id, nic)
		if err := CheckName(name); err != nil {
			t.Fatal(err)
		}
		if err := checkMAC(mac); err != nil || mac[0]&2 == 0 {
			t.Fatalf("%v: %v", mac, err)
		}
		if NameFor("vm", id, nic) != name || MACFor(id, nic).String() != mac.String() {
			t.Fatal("not the same twice")
		}
		if NameFor("vm", id, nic+1) == name || NameFor("vm", id+"x", nic) == name || MACFor(id, nic+1).String() == mac.String() {
			t.Fatal("the same for another")
		}
	})
	// Written into records: they must not change with a new release.
	if n, m := NameFor("tap", "machine", 0), MACFor("machine", 0); n != "tap-cxsrtixjtve" || m.String() != "aa:ff:75:58:5c:ca" {
		t.Fatalf("%s %s", n, m)
	}
}

func TestMark(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := mark{owner: rapid.StringMatching(`[A-Za-z0-9._:/@+-]{1,100}`).Draw(t, "owner")}
		if rapid.Bool().Draw(t, "dev") {
			m.dev = "tap7"
		}
		if rapid.Bool().Draw(t, "groups") {
			m.groups = []string{"a", "b-c"}
		}
		got, ok := parseMark(m.String())
		if !ok || got.String() != m.String() {
			t.Fatalf("%q: %+v, %v", m, got, ok)
		}
	})
	long := mark{owner: strings.Repeat("o", maxOwner), dev: strings.Repeat("d", MaxName)}
	for range groupsRoom {
		long.groups = append(long.groups, strings.Repeat("g", maxGroup))
	}
	if n := len(long.String()); n > maxMark {
		t.Fatalf("the longest mark is %d bytes", n)
	}
	for _, foreign := range []string{
		"", "skep", "skep ", "skepowner=a", "uplink", "skep owner=", "skep owner=a b", "skep owner=a x=1",
		"skep owner=a dev=/dev/tap1 2", "skep owner=a groups=", "skep owner=a groups=a1", "SKEP owner=a",
		"skep dev=tap0", "skep owner=a\n", "skep owner=" + strings.Repeat("a", 101), "skep owner=a groups=" + strings.Repeat("a,", 20) + "a",
	} {
		if m, ok := parseMark(foreign); ok {
			t.Errorf("%q is taken for ours: %+v", foreign, m)
		}
	}
}

func FuzzMark(f *testing.F) {
	f.Add("skep owner=dir:/var/lib/skep#vm1 dev=tap0 groups=a,b")
	f.Add("skep owner=x groups=,")
	f.Fuzz(func(t *testing.T, s string) {
		m, ok := parseMark(s)
		if !ok {
			return
		}
		again, ok := parseMark(m.String())
		if !ok || again.owner != m.owner || again.dev != m.dev {
			t.Fatalf("%q reads as %+v, written and read again %+v", s, m, again)
		}
	})
}

func TestAbandoned(t *testing.T) {
	mine := scratchName()
	if abandoned(mine) {
		t.Fatalf("%s is of a living process", mine)
	}
	gone := exec.Command(os.Args[0], "-test.run=^$")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	name := scratchNameOf(gone.Process.Pid)
	if !abandoned(name) {
		t.Fatalf("%s is of process %d, which is gone", name, gone.Process.Pid)
	}
	for _, other := range []string{"eth0", "skep0", "skep-br0", "skep00000012345", "skepzzzzzz00000", "xskep0000100000"} {
		if abandoned(other) {
			t.Errorf("%s is taken for ours", other)
		}
	}
}

func TestSpecsAreChecked(t *testing.T) {
	good := func() Common { return Common{Name: "x0", Owner: "o"} }
	with := func(f func(*Common)) Common { c := good(); f(&c); return c }
	for name, c := range map[string]Common{
		"name":     with(func(c *Common) { c.Name = "a/b" }),
		"no owner": with(func(c *Common) { c.Owner = "" }),
		"owner":    with(func(c *Common) { c.Owner = "a b" }),
		"short":    with(func(c *Common) { c.MAC = net.HardwareAddr{2, 3} }),
		"group":    with(func(c *Common) { c.MAC = net.HardwareAddr{3, 0, 0, 0, 0, 1} }),
		"zero":     with(func(c *Common) { c.MAC = make(net.HardwareAddr, 6) }),
		"mtu":      with(func(c *Common) { c.MTU = 67 }),
		"mtu high": with(func(c *Common) { c.MTU = 65536 }),
		"group 1":  with(func(c *Common) { c.Groups = []string{"g1"} }),
		"groups":   with(func(c *Common) { c.Groups = strings.Split("a,b,c,d,e,f,g,h,i", ",") }),
		"private":  with(func(c *Common) { c.Private = true }),
		"bridge":   with(func(c *Common) { c.Bridge = "a/b" }),
		"address":  with(func(c *Common) { c.Addresses = append(c.Addresses, prefix("0.0.0.0/8")) }),
		"address 6": with(func(c *Common) {
			c.Addresses = append(c.Addresses, prefix("ff02::1/128"))
		}),
	} {
		if err := c.check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if c := good(); c.check() != nil {
		t.Error(c.check())
	}
	for name, check := range map[string]func() error{
		"queues":      (&TapSpec{Common: good(), Queues: -1}).check,
		"many queues": (&TapSpec{Common: good(), Queues: 257}).check,
		"peer":        (&PairSpec{Common: good(), Peer: "x0"}).check,
		"no peer":     (&PairSpec{Common: good()}).check,
		"vlan 0":      (&VLANSpec{Common: good(), Parent: "e0"}).check,
		"vlan 4095":   (&VLANSpec{Common: good(), Parent: "e0", ID: 4095}).check,
		"vlan parent": (&VLANSpec{Common: good(), ID: 1}).check,
		"vni":         (&VXLANSpec{Common: good(), VNI: 1 << 24}).check,
		"families":    (&VXLANSpec{Common: good(), Local: addr("10.0.0.1"), Remote: addr("2001:db8::1")}).check,
		"group":       (&VXLANSpec{Common: good(), Remote: addr("239.0.0.1")}).check,
		"local group": (&VXLANSpec{Common: good(), Local: addr("239.0.0.1")}).check,
	} {
		if err := check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
