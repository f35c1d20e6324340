// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && linux

package vmm_test

import (
	"testing"
	"time"

	"github.com/skepvm/skep/vmm"
)

// BenchmarkStart compares the time from the start of the VMM until the guest's
// init takes commands: same kernel, initrd and memory, one vCPU.
func BenchmarkStart(b *testing.B) {
	processors(b, 1)
	since := func(start func()) float64 {
		begin := time.Now()
		start()
		return time.Since(begin).Seconds()
	}
	compare(b, "s/start",
		func() float64 { return since(func() { launch(b, vmm.Config{CPUs: 1, Memory: 512 << 20}).m.Kill() }) },
		func() float64 { return since(func() { startQEMU(b, 1) }) })
}
