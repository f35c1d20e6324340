// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/skepvm/skep/netif"
)

// claim takes for a new machine, in this process's memory, its name, its address
// and its room on the host, or none of them. MAC, address and tap go into r.
func (h *Host) claim(m *Machine, r *record) error {
	free, err := h.store.free()
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrClosed
	}
	if h.machines[m.key] != nil {
		return ErrExists
	}
	if len(h.machines) >= h.cfg.Limits.Machines {
		return fmt.Errorf("%w: there are %d machines, as many as may be", ErrNoSpace, len(h.machines))
	}
	mates := 0
	for k := range h.machines {
		if k.namespace == m.key.namespace {
			mates++
		}
	}
	if mates >= h.cfg.Limits.PerNamespace {
		return fmt.Errorf("%w: there are %d machines in this namespace, as many as may be", ErrNoSpace, mates)
	}
	if err := h.checkDisk(r.Spec.Disk, free); err != nil {
		return err
	}
	if err := h.checkMemory(r.Spec.Memory, r.Spec.Stopped); err != nil {
		return err
	}
	if err := h.claimAddress(r); err != nil {
		return err
	}
	if !r.Spec.Stopped {
		h.committed += r.Spec.Memory
		m.reserved = true
	}
	h.machines[m.key] = m
	h.forgetFailed(m.key)
	return nil
}

// claimAddress is called with h.mu held.
func (h *Host) claimAddress(r *record) error {
	if r.MAC = r.Spec.MAC; r.MAC == nil {
		r.MAC = netif.MACFor(r.ID, 0)
	}
	if h.cfg.Network.Disabled {
		if r.Spec.Address.IsValid() {
			return invalid("Address", r.Spec.Address.String(), "this host gives machines no network")
		}
		return nil
	}
	a := r.Spec.Address
	var err error
	if a.IsValid() {
		err = h.pool.ClaimAddr(a, r.ID)
	} else {
		a, err = h.pool.Claim(r.ID)
	}
	switch {
	case errors.Is(err, netif.ErrExhausted):
		return fmt.Errorf("%w: %w in %s", ErrNoSpace, err, h.pool.Prefix())
	case errors.Is(err, netif.ErrExists):
		return fmt.Errorf("address %s: %w", a, ErrExists)
	case err != nil:
		return &FieldError{Field: "Address", Value: a.String(), Why: "cannot be given", Err: err}
	}
	r.Address = netip.PrefixFrom(a, h.pool.Prefix().Bits())
	r.Gateway = h.pool.Gateway()
	r.Tap = netif.NameFor("sk", r.ID, 0)
	return nil
}

// unclaim gives everything back that claim took.
func (h *Host) unclaim(m *Machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.machines[m.key] != m {
		return
	}
	delete(h.machines, m.key)
	h.pool.Release(m.id)
	h.release(m)
}

// checkMemory is called with h.mu held. A machine that is to stay stopped must
// be one that could ever run.
func (h *Host) checkMemory(want int64, stopped bool) error {
	left := h.memLimit - h.committed
	if stopped {
		left = h.memLimit
	}
	if want > left {
		return fmt.Errorf("%w: %s of memory wanted, %s left of %s for machines", ErrNoSpace, people(want), people(left), people(h.memLimit))
	}
	return nil
}

// checkDisk is called with h.mu held.
func (h *Host) checkDisk(want, free int64) error {
	limit := int64(float64(free) * h.cfg.Limits.DiskOvercommit)
	left := limit - h.promised()
	if want > left {
		return fmt.Errorf("%w: disk of %s wanted, %s left to promise (%s free in the store)", ErrNoSpace, people(want), people(max(left, 0)), people(free))
	}
	return nil
}

// promised is what machines' disks may yet take of the store. h.mu is held.
func (h *Host) promised() int64 {
	var sum int64
	for _, m := range h.machines {
		r := m.record()
		used, err := h.store.diskUsed(r)
		if err != nil {
			used = 0 // it is being made or taken away
		}
		sum += max(0, r.Spec.Disk-used)
	}
	return sum
}

// reserve takes memory for a machine that is about to run.
func (h *Host) reserve(m *Machine) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m.reserved {
		return nil
	}
	want := m.record().Spec.Memory
	if err := h.checkMemory(want, false); err != nil {
		return err
	}
	h.committed += want
	m.reserved = true
	return nil
}

// release gives a machine's memory back. h.mu is held.
func (h *Host) release(m *Machine) {
	if m.reserved {
		h.committed -= m.record().Spec.Memory
		m.reserved = false
	}
}

func (h *Host) releaseMemory(m *Machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.release(m)
}

// rememberFailed keeps a machine whose Create failed, to be looked at.
func (h *Host) rememberFailed(m *Machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.machines[m.key] != nil {
		return // somebody made it since
	}
	h.forgetFailed(m.key)
	if len(h.failOrder) >= maxFailed {
		delete(h.failed, h.failOrder[0].key)
		h.failOrder = h.failOrder[1:]
	}
	h.failed[m.key] = m
	h.failOrder = append(h.failOrder, m)
}

// forgetFailed is called with h.mu held.
func (h *Host) forgetFailed(k key) bool {
	old := h.failed[k]
	if old == nil {
		return false
	}
	delete(h.failed, k)
	for i, m := range h.failOrder {
		if m == old {
			h.failOrder = append(h.failOrder[:i:i], h.failOrder[i+1:]...)
			break
		}
	}
	return true
}

// people writes a size for an error: 1.5 GiB.
func people(n int64) string {
	switch {
	case n >= GiB || n <= -GiB:
		return fmt.Sprintf("%.1f GiB", float64(n)/GiB)
	case n >= MiB || n <= -MiB:
		return fmt.Sprintf("%.1f MiB", float64(n)/MiB)
	}
	return fmt.Sprintf("%d bytes", n)
}

// poolSize counts the addresses that machines can get.
func poolSize(cfg *resolved) int {
	if cfg.Network.Disabled {
		return 0
	}
	if n := cfg.Network; n.First.IsValid() {
		f, l := n.First.As4(), n.Last.As4()
		size := int(be32(l)) - int(be32(f)) + 1
		if gw := n.Address.Addr(); gw.Compare(n.First) >= 0 && gw.Compare(n.Last) <= 0 {
			size--
		}
		return size
	}
	return 1<<(32-cfg.Network.Address.Bits()) - 3
}

func be32(b [4]byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}
