// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package skep

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
)

// BenchmarkMemory compares what a worker has resident beside its guest's memory
// with what QEMU's microvm has, once the same guest has booted.
func BenchmarkMemory(b *testing.B) {
	p := newPlace(b)
	m, _ := startOurs(b, p, func(s *MachineSpec) {})
	ours := overhead(b, m.Status().WorkerPID, peerMemory)
	_, cmd := startQEMU(b, 1, peerMemory, "-drive", "if=none,id=d,format=raw,file="+p.dir+"/tiny.raw", "-device", "virtio-blk-pci,drive=d")
	theirs := overhead(b, cmd.Process.Pid, peerMemory)
	b.ReportMetric(float64(ours)/MiB, "MiB")
	b.ReportMetric(float64(theirs)/MiB, "qemu-MiB")
	b.ReportMetric(float64(ours)/float64(theirs), "ratio")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkCreate is the time from the order to a login by ssh, of a warm image:
// of a Debian cloud image, whose own boot is most of it, and of the small guest,
// which does little else than what its seed says. Ten Debian machines at once are
// more than an emulated host can boot within hours: SKEP_SOAK asks for them.
func BenchmarkCreate(b *testing.B) {
	for _, image := range []string{"tiny-cloud", "debian12"} {
		for _, n := range []int{1, 10} {
			if image == "debian12" && n > 1 && os.Getenv("SKEP_SOAK") == "" {
				continue
			}
			b.Run(fmt.Sprintf("image=%s/machines=%d", image, n), func(b *testing.B) {
				spec := tinySpec("")
				if image == "debian12" {
					spec.Memory, spec.Disk = 384*MiB, 2*GiB
				}
				spec.Image = image
				for b.Loop() {
					createToSSH(b, spec, n)
				}
			})
		}
	}
}

// createToSSH creates n machines at once, logs into all and destroys them.
func createToSSH(b *testing.B, spec MachineSpec, n int) {
	p := newPlace(b)
	cfg := realConfig(b, p)
	cfg.Limits.Memory = 64 * GiB // guests touch little of what they have
	h, err := Open(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	if err := h.WarmImage(b.Context(), spec.Image, nil); err != nil {
		b.Fatal(err)
	}
	key, pub := key25519(b)
	var mu sync.Mutex
	var last, sum time.Duration
	var all sync.WaitGroup
	begin := time.Now()
	for i := range n {
		spec.Name, spec.Keys = fmt.Sprintf("vm%d", i), []string{pub}
		m, err := h.Create(b.Context(), spec)
		if err != nil {
			b.Fatal(err)
		}
		all.Go(func() {
			if err := m.Wait(b.Context()); err != nil {
				b.Error(err)
				return
			}
			c, err := login(m, key, time.Hour)
			if err != nil {
				b.Error(err)
				return
			}
			c.Close()
			mu.Lock()
			defer mu.Unlock()
			last = time.Since(begin)
			sum += last
		})
	}
	all.Wait()
	b.ReportMetric(last.Seconds(), "s/last")
	b.ReportMetric(sum.Seconds()/float64(n), "s/mean")
	b.ReportMetric(0, "ns/op")
	for _, s := range h.List("") {
		m, err := h.Get("", s.Spec.Name)
		if err != nil {
			b.Error(err)
		} else if err := m.Destroy(b.Context()); err != nil {
			b.Error(err)
		}
	}
}
