// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
)

// Range is the addresses from First to Last, both included.
type Range struct {
	First, Last netip.Addr
}

// PoolSpec says which addresses a pool hands out.
type PoolSpec struct {
	// Prefix is the network. Its host bits are ignored.
	Prefix netip.Prefix
	// Gateway is never handed out. The zero value is the first usable address.
	Gateway netip.Addr
	// Range narrows what is handed out; the zero value is the whole network
	// but for what may be no host's: IPv4's network and broadcast addresses
	// (not in a /31 or /32, RFC 3021), IPv6's subnet-router anycast address
	// (RFC 4291 section 2.6.1, not in a /127 or /128, RFC 6164).
	Range Range
	// Exclude is not handed out either.
	Exclude []Range
}

// Pool hands out addresses, the lowest free one first, and takes them back. It
// keeps nothing but memory: at start, the caller claims again what its records
// say, by ClaimAddr. Its methods may be called from many goroutines.
type Pool struct {
	prefix  netip.Prefix
	gateway netip.Addr
	whole   Range   // what could be claimed by address
	hand    Range   // what Claim hands out
	exclude []Range // sorted, disjoint

	mu      sync.Mutex
	byAddr  map[netip.Addr]string
	byOwner map[string]netip.Addr
	// hint: no address of hand below it is free.
	hint netip.Addr
}

// NewPool checks a specification and makes an empty pool of it.
func NewPool(s PoolSpec) (*Pool, error) {
	if !s.Prefix.IsValid() || s.Prefix.Addr().Is4In6() || s.Prefix.Addr().IsMulticast() {
		return nil, invalid("pool: network %v", s.Prefix)
	}
	p := &Pool{
		prefix:  s.Prefix.Masked(),
		byAddr:  map[netip.Addr]string{},
		byOwner: map[string]netip.Addr{},
	}
	p.whole = usable(p.prefix)
	p.gateway = s.Gateway
	if !s.Gateway.IsValid() {
		p.gateway = p.whole.First
	}
	if !p.whole.has(p.gateway) {
		return nil, invalid("pool: gateway %v is no host's address in %v", p.gateway, p.prefix)
	}
	p.hand = p.whole
	if s.Range != (Range{}) {
		if err := p.checkRange(s.Range); err != nil {
			return nil, err
		}
		p.hand = Range{maxAddr(s.Range.First, p.whole.First), minAddr(s.Range.Last, p.whole.Last)}
	}
	exclude := []Range{{p.gateway, p.gateway}}
	for _, r := range s.Exclude {
		if err := p.checkRange(r); err != nil {
			return nil, err
		}
		exclude = append(exclude, r)
	}
	p.exclude = merge(exclude)
	p.hint = p.hand.First
	return p, nil
}

func (p *Pool) checkRange(r Range) error {
	if !p.prefix.Contains(r.First) || !p.prefix.Contains(r.Last) || r.Last.Less(r.First) {
		return invalid("pool: range %v-%v is not within %v", r.First, r.Last, p.prefix)
	}
	return nil
}

// usable is the addresses of a network that may be a host's.
func usable(n netip.Prefix) Range {
	first, last := n.Addr(), lastOf(n)
	free := n.Addr().BitLen() - n.Bits()
	if free >= 2 {
		first = first.Next()
		if n.Addr().Is4() {
			last = last.Prev()
		}
	}
	return Range{first, last}
}

func lastOf(n netip.Prefix) netip.Addr {
	b := n.Addr().AsSlice()
	for bit := n.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (r Range) has(a netip.Addr) bool {
	return a.BitLen() == r.First.BitLen() && a.Zone() == "" && !a.Less(r.First) && !r.Last.Less(a)
}

func maxAddr(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return b
	}
	return a
}

func minAddr(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return a
	}
	return b
}

// merge sorts ranges and joins those that overlap or touch.
func merge(rs []Range) []Range {
	slices.SortFunc(rs, func(a, b Range) int { return a.First.Compare(b.First) })
	out := rs[:1]
	for _, r := range rs[1:] {
		end := &out[len(out)-1]
		if next := end.Last.Next(); next.IsValid() && next.Less(r.First) {
			out = append(out, r)
			continue
		}
		end.Last = maxAddr(end.Last, r.Last)
	}
	return out
}

// Prefix is the network.
func (p *Pool) Prefix() netip.Prefix { return p.prefix }

// Gateway is the address that the host answers on.
func (p *Pool) Gateway() netip.Addr { return p.gateway }

// GatewayPrefix is the gateway with the network's prefix length, as an
// interface wants it.
func (p *Pool) GatewayPrefix() netip.Prefix { return netip.PrefixFrom(p.gateway, p.prefix.Bits()) }

// Claim gives owner the lowest free address; an owner that has one gets the
// same again. A full pool is ErrExhausted.
func (p *Pool) Claim(owner string) (netip.Addr, error) {
	if owner == "" {
		return netip.Addr{}, invalid("pool: no owner")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, ok := p.byOwner[owner]; ok {
		return a, nil
	}
	n := 0 // the first exclusion that does not end below a
	for a := p.hint; p.hand.has(a); a = a.Next() {
		for n < len(p.exclude) && p.exclude[n].Last.Less(a) {
			n++
		}
		if n < len(p.exclude) && p.exclude[n].has(a) {
			a = p.exclude[n].Last
			continue
		}
		if _, taken := p.byAddr[a]; taken {
			continue
		}
		p.hint = a.Next()
		p.byAddr[a], p.byOwner[owner] = owner, a
		return a, nil
	}
	p.hint = p.hand.Last.Next() // invalid after the very last address: has answers false
	return netip.Addr{}, fmt.Errorf("netif: pool %v: %w: %d addresses are claimed", p.prefix, ErrExhausted, len(p.byAddr))
}

// ClaimAddr gives owner a particular address of the network, also one that
// Claim would not hand out. The owner's own is no error; another's, and a second
// one for an owner, is ErrExists; the gateway, and what can be no host's, is
// ErrInvalid.
func (p *Pool) ClaimAddr(a netip.Addr, owner string) error {
	switch {
	case owner == "":
		return invalid("pool: no owner")
	case !p.whole.has(a):
		return invalid("pool: %v is no host's address in %v", a, p.prefix)
	case a == p.gateway:
		return invalid("pool: %v is the gateway of %v", a, p.prefix)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if have, ok := p.byAddr[a]; ok && have != owner {
		return fmt.Errorf("netif: pool %v: %v of %q: %w, of %q", p.prefix, a, owner, ErrExists, have)
	}
	if have, ok := p.byOwner[owner]; ok && have != a {
		return fmt.Errorf("netif: pool %v: %v of %q: %w: it has %v", p.prefix, a, owner, ErrExists, have)
	}
	p.byAddr[a], p.byOwner[owner] = owner, a
	return nil
}

// Release takes back the address of an owner; ok is false when it had none.
func (p *Pool) Release(owner string) (a netip.Addr, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok = p.byOwner[owner]
	if !ok {
		return netip.Addr{}, false
	}
	delete(p.byOwner, owner)
	delete(p.byAddr, a)
	if p.hand.has(a) && (!p.hint.IsValid() || a.Less(p.hint)) {
		p.hint = a
	}
	return a, true
}

// Claims is a copy of who has what.
func (p *Pool) Claims() map[netip.Addr]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.byAddr)
}
