// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/skepvm/skep/vmm/hv"
)

func doorbellOf(t *testing.T) hv.Doorbell {
	t.Helper()
	vm, _ := newTestVM(t, newHost(), 1)
	d, err := vm.NewDoorbell(0xc0000000, 0)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDoorbell: what is rung before Wait wakes it, once; ringing never blocks,
// however often nobody waits.
func TestDoorbell(t *testing.T) {
	d := doorbellOf(t)
	for range 1 << 20 { // more than a pipe holds
		d.Ring()
	}
	if err := d.Wait(); err != nil {
		t.Fatal(err)
	}
	woken := make(chan error)
	go func() { woken <- d.Wait() }()
	select {
	case err := <-woken:
		t.Fatalf("woken twice by what was rung before the first: %v", err)
	default:
	}
	d.Ring()
	if err := <-woken; err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d.Ring()
	if err := d.Wait(); !errors.Is(err, hv.ErrClosed) {
		t.Errorf("wait on a closed doorbell: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// TestDoorbellClose ends waits, whether they have begun or not, while others ring.
func TestDoorbellClose(t *testing.T) {
	for range 200 {
		d := doorbellOf(t)
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				for d.Wait() == nil {
				}
			})
			all.Go(d.Ring)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		all.Wait()
	}
}

// TestDoorbellLosesNothing: who looks after a Wait sees what was done before the
// Ring, however the two race.
func TestDoorbellLosesNothing(t *testing.T) {
	d := doorbellOf(t)
	defer d.Close()
	const n = 20000
	var done atomic.Int64
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() {
		for range n {
			done.Add(1)
			d.Ring()
		}
	})
	for done.Load() < n {
		if err := d.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}
