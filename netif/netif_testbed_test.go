// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package netif

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// These tests run against the kernel, in a network stack of their own where the
// system has them (isolate), as root.

func open(t *testing.T) *Conn {
	t.Helper()
	isolate(t)
	c, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		removed, err := c.Sweep(func(i Interface) bool { return strings.HasPrefix(i.Owner, "netif-test") })
		if err != nil {
			t.Errorf("sweep (removed %v): %v", removed, err)
		}
		all, err := c.List()
		if err != nil {
			t.Error(err)
		}
		for _, i := range all {
			if i.Ours && strings.HasPrefix(i.Owner, "netif-test") || abandoned(i.Name) || scratchRE.MatchString(i.Name) {
				t.Errorf("left: %+v", i)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func common(name string) Common { return Common{Name: name, Owner: "netif-test/" + name} }

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestBridge(t *testing.T) {
	c := open(t)
	s := BridgeSpec{common("ntbr0")}
	s.MTU, s.Up = 1400, true
	s.Addresses = []netip.Prefix{prefix("10.251.0.1/24"), prefix("fd00:251::1/64")}
	s.Groups = []string{"ntgroup", "nt-other"}
	b := must[Interface](t)(c.CreateBridge(s))
	if b.Kind != KindBridge || !b.Up || b.MTU != 1400 || !b.Ours || b.Owner != s.Owner || b.Name != "ntbr0" || b.Index == 0 {
		t.Errorf("made %+v", b)
	}
	for _, a := range s.Addresses {
		if !slices.Contains(b.Addresses, a) {
			t.Errorf("address %v is missing in %v", a, b.Addresses)
		}
	}
	if _, err := c.CreateBridge(s); !errors.Is(err, ErrExists) {
		t.Errorf("again: %v", err)
	}
	// The host answers on both addresses.
	for _, a := range s.Addresses {
		l, err := net.Listen("tcp", net.JoinHostPort(a.Addr().String(), "0"))
		if err != nil {
			t.Errorf("listen on %v: %v", a, err)
			continue
		}
		l.Close()
	}
	if err := c.RemoveAddress(b.Name, s.Addresses[0]); err != nil {
		t.Error(err)
	}
	if err := c.RemoveAddress(b.Name, s.Addresses[0]); err != nil {
		t.Errorf("removing what is gone: %v", err)
	}
	if err := c.AddAddress(b.Name, s.Addresses[1]); err != nil {
		t.Errorf("adding what is there: %v", err)
	}
	// FreeBSD puts an interface into groups of its own besides.
	member := func(want map[string]bool) {
		t.Helper()
		i := must[Interface](t)(c.Get(b.Name))
		for g, in := range want {
			if slices.Contains(i.Groups, g) != in {
				t.Errorf("groups %q: in %s shall be %v", i.Groups, g, in)
			}
		}
	}
	member(map[string]bool{"ntgroup": true, "nt-other": true, "nt-late": false})
	if err := errors.Join(c.AddGroup(b.Name, "nt-late"), c.AddGroup(b.Name, "nt-late"), c.RemoveGroup(b.Name, "ntgroup"), c.RemoveGroup(b.Name, "ntgroup")); err != nil {
		t.Error(err)
	}
	member(map[string]bool{"ntgroup": false, "nt-other": true, "nt-late": true})
	if err := c.RemoveGroup(b.Name, "nt-late"); err != nil {
		t.Error(err)
	}
	if err := errors.Join(c.SetUp(b.Name, false), c.SetMTU(b.Name, 9000)); err != nil {
		t.Error(err)
	}
	again := must[Interface](t)(c.EnsureBridge(s))
	again.Addresses, b.Addresses = nil, nil
	if fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", b) {
		t.Errorf("mended %+v\nwant   %+v", again, b)
	}
	if err := errors.Join(c.SetUp(b.Name, false), c.Rename("ntbr0", "ntbr1")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get("ntbr0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the old name: %v", err)
	}
	if err := c.Destroy("ntbr1"); err != nil {
		t.Error(err)
	}
	if err := c.Destroy("ntbr1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("destroying what is gone: %v", err)
	}
}

// frame is an Ethernet frame of an unassigned type behind a vnet header.
func frame(dst, src net.HardwareAddr, payload string) []byte {
	b := make([]byte, 12, 64)
	b = append(append(b, dst...), src...)
	b = append(b, 0x88, 0xb5)
	return append(b, payload...)
}

// receive reads until a frame of that type with the payload comes, or the time
// is over.
func receive(f *os.File, payload string, wait time.Duration) bool {
	buf := make([]byte, 65536)
	if err := f.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return false
	}
	for {
		n, err := f.Read(buf)
		if err != nil {
			return false
		}
		if n >= 26 && buf[24] == 0x88 && buf[25] == 0xb5 && bytes.HasPrefix(buf[26:n], []byte(payload)) {
			return true
		}
	}
}

func TestTapsOnABridge(t *testing.T) {
	c := open(t)
	br := BridgeSpec{common("ntbr0")}
	br.Up, br.Addresses = true, []netip.Prefix{prefix("10.251.1.1/24")}
	bridge := must[Interface](t)(c.CreateBridge(br))
	taps := make([]*Tap, 3)
	for n := range taps {
		s := TapSpec{Common: common(fmt.Sprint("nttap", n)), VnetHeader: true}
		s.Up, s.Bridge, s.Private = true, "ntbr0", n > 0
		taps[n] = must[*Tap](t)(c.CreateTap(s))
		defer taps[n].Close()
		if i := taps[n].Interface; i.Kind != KindTap || !i.Up || i.Bridge != "ntbr0" || i.Private != (n > 0) {
			t.Errorf("made %+v", i)
		}
	}
	if m := must[[]Interface](t)(c.Members("ntbr0")); len(m) != 3 || m[1].Name != "nttap1" || !m[1].Private || m[0].Private {
		t.Errorf("members %+v", m)
	}
	if after := must[Interface](t)(c.Get("ntbr0")); after.MAC.String() != bridge.MAC.String() {
		t.Errorf("the bridge's address moved from %v to %v", bridge.MAC, after.MAC)
	}
	all := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	send := func(n int, payload string) {
		t.Helper()
		if _, err := taps[n].Files[0].Write(frame(all, MACFor("vm", n), payload)); err != nil {
			t.Fatal(err)
		}
	}
	send(0, "from 0")
	for _, n := range []int{1, 2} {
		if !receive(taps[n].Files[0], "from 0", 5*time.Second) {
			t.Errorf("tap %d did not get what 0 sent", n)
		}
	}
	send(1, "from 1")
	if !receive(taps[0].Files[0], "from 1", 5*time.Second) {
		t.Error("tap 0 did not get what 1 sent")
	}
	if receive(taps[2].Files[0], "from 1", 300*time.Millisecond) {
		t.Error("private port 2 got what private port 1 sent")
	}
	// ARP for the gateway, whose answer is the bridge's own address.
	me := MACFor("vm", 1)
	ask := append(make([]byte, 12), all...)
	ask = append(ask, me...)
	ask = append(ask, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1)
	ask = append(append(append(ask, me...), 10, 251, 1, 7), 0, 0, 0, 0, 0, 0, 10, 251, 1, 1)
	if _, err := taps[1].Files[0].Write(ask); err != nil {
		t.Fatal(err)
	}
	buf, answered := make([]byte, 2048), false
	_ = taps[1].Files[0].SetReadDeadline(time.Now().Add(5 * time.Second))
	for !answered {
		n, err := taps[1].Files[0].Read(buf)
		if err != nil {
			t.Fatalf("no ARP answer: %v", err)
		}
		p := buf[12:n]
		answered = len(p) >= 42 && binary.BigEndian.Uint16(p[12:]) == 0x0806 && p[21] == 2 && bytes.Equal(p[22:28], bridge.MAC)
	}
	if err := errors.Join(c.RemoveMember("ntbr0", "nttap0"), c.RemoveMember("ntbr0", "nttap0")); err != nil {
		t.Error(err)
	}
	if i := must[Interface](t)(c.Get("nttap0")); i.Bridge != "" {
		t.Errorf("still a member: %+v", i)
	}
	if err := errors.Join(c.AddMember("ntbr0", "nttap0", true), c.AddMember("ntbr0", "nttap0", false)); err != nil {
		t.Error(err)
	}
	other := BridgeSpec{common("ntbr1")}
	must[Interface](t)(c.CreateBridge(other))
	if err := c.AddMember("ntbr1", "nttap0", false); !errors.Is(err, ErrBusy) {
		t.Errorf("a member of another bridge: %v", err)
	}
}

func TestTapDescriptors(t *testing.T) {
	c := open(t)
	s := TapSpec{Common: common("nttap0"), VnetHeader: true, Persist: true}
	tap := must[*Tap](t)(c.CreateTap(s))
	if err := SetOffloads(tap.Files[0], OffloadChecksum|OffloadTSO4|OffloadTSO6); err != nil {
		t.Error(err)
	}
	if err := SetOffloads(tap.Files[0], OffloadTSO4); !errors.Is(err, ErrInvalid) {
		t.Errorf("segmentation without checksum: %v", err)
	}
	if _, err := c.OpenTap("nttap0", s); !errors.Is(err, ErrBusy) {
		t.Errorf("opened twice: %v", err)
	}
	if err := tap.Close(); err != nil {
		t.Error(err)
	}
	again := must[[]*os.File](t)(c.OpenTap("nttap0", s))
	if err := c.SetUp("nttap0", true); err != nil {
		t.Error(err)
	}
	if err := closeAll(again); err != nil {
		t.Error(err)
	}
	if _, err := c.Get("nttap0"); err != nil {
		t.Errorf("a persistent tap went with its descriptor: %v", err)
	}
	if _, err := c.OpenTap("nttapx", s); !errors.Is(err, ErrNotFound) {
		t.Errorf("a missing tap: %v", err)
	}
	if err := c.Destroy("nttap0"); err != nil {
		t.Error(err)
	}
}

func TestPair(t *testing.T) {
	c := open(t)
	s := PairSpec{Common: common("ntp0"), Peer: "ntp1", PeerMAC: MACFor("peer", 0), PeerUp: true}
	s.Up, s.MTU, s.MAC = true, 1400, MACFor("pair", 0)
	p := must[Interface](t)(c.CreatePair(s))
	if p.Kind != KindPair || p.Peer != "ntp1" || p.MTU != 1400 || p.MAC.String() != s.MAC.String() || !p.Up {
		t.Errorf("made %+v", p)
	}
	q := must[Interface](t)(c.Get("ntp1"))
	if q.Kind != KindPair || q.Peer != "ntp0" || q.MTU != 1400 || q.MAC.String() != s.PeerMAC.String() || !q.Up || !q.Ours {
		t.Errorf("peer %+v", q)
	}
	if _, err := c.CreatePair(PairSpec{Common: common("ntp2"), Peer: "ntp1"}); !errors.Is(err, ErrExists) {
		t.Errorf("the peer's name is taken: %v", err)
	}
	if err := c.Destroy("ntp1"); err != nil {
		t.Error(err)
	}
	if _, err := c.Get("ntp0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("one end outlives the other: %v", err)
	}
}

// uplink makes a pair whose first end carries an address.
func uplink(t *testing.T, c *Conn) {
	t.Helper()
	up := PairSpec{Common: common("ntu0"), Peer: "ntu1", PeerUp: true}
	up.Up, up.Addresses = true, []netip.Prefix{prefix("10.251.2.1/24")}
	must[Interface](t)(c.CreatePair(up))
}

func TestVLAN(t *testing.T) {
	c := open(t)
	uplink(t, c)
	v := VLANSpec{Common: common("ntv0"), Parent: "ntu0", ID: 77}
	v.Up = true
	if i := must[Interface](t)(c.CreateVLAN(v)); i.Kind != KindVLAN || i.VLAN != 77 || i.Parent != "ntu0" || !i.Up {
		t.Errorf("made %+v", i)
	}
}

func TestVXLAN(t *testing.T) {
	c := open(t)
	uplink(t, c)
	x := VXLANSpec{Common: common("ntx0"), VNI: 4242, Local: addr("10.251.2.1"), NoLearning: true}
	x.MTU, x.Up = 1450, true
	if i := must[Interface](t)(c.CreateVXLAN(x)); i.Kind != KindVXLAN || i.VNI != 4242 || i.MTU != 1450 || !i.Up {
		t.Errorf("made %+v", i)
	}
	one := Forward{MACFor("far", 0), addr("10.251.2.9")}
	if err := errors.Join(c.AddForward("ntx0", one), c.AddForward("ntx0", one)); err != nil {
		t.Error(err)
	}
	has := func() bool {
		return slices.ContainsFunc(must[[]Forward](t)(c.Forwards("ntx0")), func(f Forward) bool {
			return f.MAC.String() == one.MAC.String() && f.To == one.To
		})
	}
	if !has() {
		t.Error("the forwarding entry is missing")
	}
	if err := errors.Join(c.RemoveForward("ntx0", one), c.RemoveForward("ntx0", one)); err != nil {
		t.Error(err)
	}
	if has() {
		t.Error("the forwarding entry is still there")
	}
}

func TestNamesThatAreNotThere(t *testing.T) {
	c := open(t)
	uplink(t, c)
	if _, err := c.CreateVLAN(VLANSpec{Common: common("ntv1"), Parent: "ntnone", ID: 1}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a missing parent: %v", err)
	}
	if _, err := c.CreateTap(TapSpec{Common: func() Common { c := common("ntt"); c.Bridge = "ntnone"; return c }()}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a missing bridge: %v", err)
	}
	if _, err := c.CreateTap(TapSpec{Common: func() Common { c := common("ntt"); c.Bridge = "ntu0"; return c }()}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a bridge that is none: %v", err)
	}
}

// TestManyAtOnce makes and removes taps from many goroutines, some of them of
// one name: exactly one of those wins.
func TestManyAtOnce(t *testing.T) {
	c := open(t)
	br := BridgeSpec{common("ntbr0")}
	br.Up = true
	must[Interface](t)(c.CreateBridge(br))
	var wg sync.WaitGroup
	won := make(chan *Tap, 64)
	for g := range 8 {
		wg.Go(func() {
			for n := range 4 {
				s := TapSpec{Common: common(fmt.Sprint("nt", g, "x", n)), VnetHeader: true}
				s.Bridge, s.Up = "ntbr0", true
				tap, err := c.CreateTap(s)
				if err != nil {
					t.Error(err)
					return
				}
				if err := errors.Join(tap.Close(), ignoreMissing(c.Destroy(s.Name))); err != nil {
					t.Error(err)
				}
				same := TapSpec{Common: common("ntsame"), VnetHeader: true}
				switch tap, err := c.CreateTap(same); {
				case err == nil:
					won <- tap
				case !errors.Is(err, ErrExists):
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	close(won)
	n := 0
	for tap := range won {
		n++
		if err := tap.Close(); err != nil {
			t.Error(err)
		}
	}
	if n != 1 {
		t.Errorf("%d of one name", n)
	}
}

func ignoreMissing(err error) error {
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
