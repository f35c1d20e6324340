// SPDX-License-Identifier: BSD-2-Clause

package kvm

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Whoever kills a machine may do so while it is being closed, and afterwards.
func TestKickWhileClosing(t *testing.T) {
	for range 200 {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		mem, err := unix.Mmap(-1, 0, 12<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			t.Fatal(err)
		}
		v := &VCPU{fd: fd, mem: mem, run: page(mem)}
		var wg sync.WaitGroup
		begun := make(chan struct{}, 2)
		for range 2 {
			wg.Go(func() {
				begun <- struct{}{}
				for range 500 {
					v.Kick()
				}
			})
		}
		<-begun
		<-begun
		if err := v.close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		v.Kick()
	}
}
