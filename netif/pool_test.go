// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestPoolHandsOutTheLowestFree(t *testing.T) {
	p, err := NewPool(PoolSpec{
		Prefix:  prefix("10.1.2.77/28"), // host bits are ignored
		Exclude: []Range{{addr("10.1.2.66"), addr("10.1.2.67")}, {addr("10.1.2.67"), addr("10.1.2.68")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.Gateway() != addr("10.1.2.65") || p.GatewayPrefix() != prefix("10.1.2.65/28") {
		t.Fatalf("gateway %v", p.GatewayPrefix())
	}
	var got []string
	for n := 0; ; n++ {
		a, err := p.Claim(fmt.Sprint("m", n))
		if errors.Is(err, ErrExhausted) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.String()[len("10.1.2."):])
	}
	if want := "[69 70 71 72 73 74 75 76 77 78]"; fmt.Sprint(got) != want {
		t.Fatalf("handed out %v, want %v", got, want)
	}
	if a, err := p.Claim("m3"); err != nil || a != addr("10.1.2.72") {
		t.Fatalf("an owner's second claim: %v, %v", a, err)
	}
	if a, ok := p.Release("m1"); !ok || a != addr("10.1.2.70") {
		t.Fatalf("release: %v, %v", a, ok)
	}
	if _, ok := p.Release("m1"); ok {
		t.Fatal("released twice")
	}
	if a, err := p.Claim("new"); err != nil || a != addr("10.1.2.70") {
		t.Fatalf("after a release: %v, %v", a, err)
	}
	if _, err := p.Claim("more"); !errors.Is(err, ErrExhausted) {
		t.Fatalf("full pool: %v", err)
	}
}

func TestPoolClaimAddr(t *testing.T) {
	p, err := NewPool(PoolSpec{Prefix: prefix("192.0.2.0/24"), Range: Range{addr("192.0.2.100"), addr("192.0.2.101")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		addr, owner string
		want        error
	}{
		{"192.0.2.7", "a", nil}, // outside of the range, yet of the network
		{"192.0.2.7", "a", nil},
		{"192.0.2.7", "b", ErrExists},
		{"192.0.2.8", "a", ErrExists},
		{"192.0.2.100", "c", nil},
		{"192.0.2.1", "d", ErrInvalid},
		{"192.0.2.0", "d", ErrInvalid},
		{"192.0.2.255", "d", ErrInvalid},
		{"192.0.3.1", "d", ErrInvalid},
		{"2001:db8::1", "d", ErrInvalid},
		{"::ffff:192.0.2.9", "d", ErrInvalid},
		{"192.0.2.9", "", ErrInvalid},
	} {
		if err := p.ClaimAddr(addr(c.addr), c.owner); !errors.Is(err, c.want) {
			t.Errorf("claim %s for %q: %v, want %v", c.addr, c.owner, err, c.want)
		}
	}
	if a, err := p.Claim("e"); err != nil || a != addr("192.0.2.101") {
		t.Fatalf("%v, %v", a, err)
	}
	if _, err := p.Claim("f"); !errors.Is(err, ErrExhausted) {
		t.Fatalf("%v", err)
	}
	p.Release("a") // outside of the range: Claim must still not hand it out
	if _, err := p.Claim("f"); !errors.Is(err, ErrExhausted) {
		t.Fatalf("%v", err)
	}
	if len(p.Claims()) != 2 {
		t.Fatalf("claims %v", p.Claims())
	}
}

func TestPoolEdges(t *testing.T) {
	for _, c := range []struct {
		prefix, gateway, first string
	}{
		{"198.51.100.0/31", "", "198.51.100.1"},
		{"198.51.100.0/30", "198.51.100.2", "198.51.100.1"},
		{"255.255.255.0/24", "", "255.255.255.2"},
		{"2001:db8::/64", "", "2001:db8::2"},
		{"2001:db8::/64", "2001:db8::ffff", "2001:db8::1"},
		{"2001:db8::/127", "2001:db8::1", "2001:db8::"},
		{"ffff:ffff:ffff:ffff::/64", "", ""}, // multicast
		{"fe80::/10", "", "fe80::2"},
		{"10.0.0.0/8", "11.0.0.1", ""},
		{"10.0.0.0/8", "10.0.0.0", ""},
		{"10.0.0.0/8", "10.255.255.255", ""},
	} {
		s := PoolSpec{Prefix: prefix(c.prefix)}
		if c.gateway != "" {
			s.Gateway = addr(c.gateway)
		}
		p, err := NewPool(s)
		if c.first == "" {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%s with gateway %q: %v", c.prefix, c.gateway, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.prefix, err)
			continue
		}
		if a, err := p.Claim("x"); err != nil || a != addr(c.first) {
			t.Errorf("%s: first is %v (%v), want %s", c.prefix, a, err, c.first)
		}
	}
	one, err := NewPool(PoolSpec{Prefix: prefix("255.255.255.255/32")})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := one.Claim("x"); !errors.Is(err, ErrExhausted) {
			t.Fatalf("a /32 is its gateway alone: %v", err)
		}
	}
	top, err := NewPool(PoolSpec{Prefix: prefix("255.255.255.254/31"), Gateway: addr("255.255.255.254")})
	if err != nil {
		t.Fatal(err)
	}
	for _, owner := range []string{"x", "y"} { // the pool ends where the address space does
		if a, err := top.Claim(owner); err != nil || a != addr("255.255.255.255") {
			t.Fatalf("%v, %v", a, err)
		}
		if _, err := top.Claim("other"); !errors.Is(err, ErrExhausted) {
			t.Fatalf("%v", err)
		}
		top.Release(owner)
	}
}

// TestPoolAgainstModel plays claims and releases against a model that looks at
// every address of a small network.
func TestPoolAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(26, 31).Draw(t, "bits")
		n := netip.PrefixFrom(addr("10.9.8.0"), bits).Masked()
		draw := func(label string) netip.Addr {
			a := n.Addr()
			for range rapid.IntRange(0, 1<<(32-bits)-1).Draw(t, label) {
				a = a.Next()
			}
			return a
		}
		var excl []Range
		for range rapid.IntRange(0, 3).Draw(t, "exclusions") {
			a, b := draw("a"), draw("b")
			excl = append(excl, Range{minAddr(a, b), maxAddr(a, b)})
		}
		p, err := NewPool(PoolSpec{Prefix: n, Exclude: excl})
		if err != nil {
			t.Fatal(err)
		}
		free := func(claims map[netip.Addr]string) netip.Addr {
		next:
			for a := usable(n).First; usable(n).has(a); a = a.Next() {
				if a == p.Gateway() || claims[a] != "" {
					continue
				}
				for _, r := range excl {
					if r.has(a) {
						continue next
					}
				}
				return a
			}
			return netip.Addr{}
		}
		model := map[netip.Addr]string{}
		owner := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g"})
		find := func(o string) (netip.Addr, bool) {
			for a, have := range model {
				if have == o {
					return a, true
				}
			}
			return netip.Addr{}, false
		}
		t.Repeat(map[string]func(*rapid.T){
			"claim": func(t *rapid.T) {
				o := owner.Draw(t, "owner")
				want, had := find(o)
				if !had {
					want = free(model)
				}
				got, err := p.Claim(o)
				if got != want || (err == nil) != want.IsValid() {
					t.Fatalf("claim %s: %v, %v; want %v", o, got, err, want)
				}
				if want.IsValid() {
					model[want] = o
				}
			},
			"claimAddr": func(t *rapid.T) {
				o, a := owner.Draw(t, "owner"), draw("address")
				have, had := find(o)
				ok := usable(n).has(a) && a != p.Gateway() && (model[a] == "" || model[a] == o) && (!had || have == a)
				if err := p.ClaimAddr(a, o); (err == nil) != ok {
					t.Fatalf("claim %v for %s: %v, want ok %v", a, o, err, ok)
				}
				if ok {
					model[a] = o
				}
			},
			"release": func(t *rapid.T) {
				o := owner.Draw(t, "owner")
				want, had := find(o)
				got, ok := p.Release(o)
				if got != want || ok != had {
					t.Fatalf("release %s: %v, %v; want %v", o, got, ok, want)
				}
				delete(model, want)
			},
			"": func(t *rapid.T) {
				if got := p.Claims(); fmt.Sprint(got) != fmt.Sprint(model) {
					t.Fatalf("claims %v, want %v", got, model)
				}
			},
		})
	})
}

func TestPoolConcurrent(t *testing.T) {
	p, err := NewPool(PoolSpec{Prefix: prefix("10.0.0.0/24")})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 200 {
				owner := fmt.Sprint(g, "/", n%30)
				if _, err := p.Claim(owner); err != nil {
					t.Error(err)
					return
				}
				if n%3 == 0 {
					p.Release(owner)
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for a, o := range p.Claims() {
		if seen[o] || !p.Prefix().Contains(a) {
			t.Fatalf("%v of %s", a, o)
		}
		seen[o] = true
	}
}

// BenchmarkClaimFull shows that a nearly full pool costs what an empty one does.
func BenchmarkClaimFull(b *testing.B) {
	for _, full := range []int{0, 60000} {
		b.Run(fmt.Sprint(full), func(b *testing.B) {
			p, err := NewPool(PoolSpec{Prefix: prefix("10.0.0.0/16")})
			if err != nil {
				b.Fatal(err)
			}
			for n := range full {
				if _, err := p.Claim(fmt.Sprint(n)); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				if _, err := p.Claim("x"); err != nil {
					b.Fatal(err)
				}
				p.Release("x")
			}
		})
	}
}
