// SPDX-License-Identifier: BSD-2-Clause

package virtio

import (
	"sync/atomic"

	"github.com/skepvm/skep/vmm/hv"
)

// kicker wakes a queue's goroutine: through a doorbell of the hypervisor's, which
// the guest or the notification register rings, or where there is none to be had
// through a channel that the register feeds.
type kicker struct {
	bell atomic.Pointer[hv.Doorbell]
	ch   chan struct{}
}

// wait blocks until rung since the last wait. It may return for nothing.
func (k *kicker) wait() {
	b := k.bell.Load()
	if b == nil {
		<-k.ch
		return
	}
	if (*b).Wait() != nil && k.bell.Load() == b {
		// The doorbell failed and nobody replaced it: go on without.
		if k.bell.CompareAndSwap(b, nil) {
			_ = (*b).Close()
		}
	}
}

func (k *kicker) ring() {
	if b := k.bell.Load(); b != nil {
		(*b).Ring()
	}
	// Also where there is a doorbell: wait may have chosen the channel before
	// the doorbell was there. At most one spurious wake comes of it.
	select {
	case k.ch <- struct{}{}:
	default:
	}
}

// set replaces the doorbell; b may be nil.
func (k *kicker) set(b hv.Doorbell) {
	var p *hv.Doorbell
	if b != nil {
		p = &b
	}
	if old := k.bell.Swap(p); old != nil {
		_ = (*old).Close()
	}
	k.ring()
}
