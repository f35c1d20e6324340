// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && linux

package vmm_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testguest"
	"github.com/skepvm/skep/vmm"
)

// commander is a guest that takes commands, whoever runs it.
type commander interface {
	do(command ...string) string
}

// qemu boots the same guest under QEMU's microvm with the same disk and tap.
type qemu struct {
	*testguest.Client
	t testing.TB
}

func (g *qemu) do(command ...string) string {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s, err := g.Do(ctx, command...)
	if err != nil {
		g.t.Fatalf("%s: %v", strings.Join(command, " "), err)
	}
	return s
}

func startQEMU(t testing.TB, cpus int, args ...string) *qemu {
	t.Helper()
	files, err := testguest.Find()
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{
		"-M", "microvm,pcie=on,accel=kvm", "-cpu", "host", "-smp", strconv.Itoa(cpus), "-m", "512", "-nodefaults", "-no-user-config",
		"-display", "none", "-serial", "stdio", "-kernel", files.Kernel, "-initrd", files.Initrd,
		"-append", testguest.Cmdline(testguest.Serial),
	}, args...)
	cmd := exec.Command("qemu-system-x86_64", args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	g := &qemu{Client: testguest.NewClient(out, in), t: t}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := g.Ready(ctx); err != nil {
		t.Fatalf("qemu: %v\n%s", err, g.Transcript())
	}
	return g
}

// processors is what the worker of a machine gives itself (package
// internal/worker): Go's scheduler is slow to take a processor away from a
// thread that is in the guest.
func processors(t testing.TB, cpus int) {
	old := runtime.GOMAXPROCS(cpus + 2)
	t.Cleanup(func() { runtime.GOMAXPROCS(old) })
}

// counts are the numbers of guests' processors that figures are taken with: no
// more than the host has.
func counts() []int {
	if runtime.NumCPU() == 1 {
		return []int{1}
	}
	return []int{1, 2}
}

// rounds is how often a figure is taken from either side in turn, so that what
// else the host does weighs on both.
const rounds = 3

// compare reports what ours and theirs measure, and the ratio of the sums.
func compare(b *testing.B, unit string, ours, theirs func() float64) {
	var o, t float64
	for range rounds {
		o += ours()
		t += theirs()
	}
	b.ReportMetric(o/rounds, unit)
	b.ReportMetric(t/rounds, "qemu-"+unit)
	b.ReportMetric(o/t, "ratio")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkBlock compares disks on the same kind of file, by the guest's own
// count: O_DIRECT in the guest, the host's page cache behind both.
func BenchmarkBlock(b *testing.B) {
	const (
		size    = 256 << 20
		seconds = "4" // of each measurement: emulation does a few dozen large requests in one
	)
	for _, cpus := range counts() {
		b.Run(fmt.Sprintf("cpus=%d", cpus), func(b *testing.B) {
			processors(b, cpus)
			ours := start(b, vmm.Config{CPUs: cpus, Disks: []vmm.Disk{{File: sparse(b, size)}}})
			theirs := startQEMU(b, cpus, "-object", "iothread,id=io", "-drive", "if=none,id=d,format=raw,cache=writeback,discard=unmap,file="+sparse(b, size).Name(),
				"-device", fmt.Sprintf("virtio-blk-pci,drive=d,iothread=io,num-queues=%d", cpus))
			for _, g := range []commander{ours, theirs} {
				g.do("disk-fill", "vda", "0", fmt.Sprint(size), "1")
			}
			for _, m := range []struct {
				mode         string
				block, depth int
			}{
				{"randread", 4096, 1}, {"randread", 4096, 32}, {"randwrite", 4096, 1}, {"randwrite", 4096, 32},
				{"read", 1 << 20, 4}, {"write", 1 << 20, 4},
			} {
				b.Run(fmt.Sprintf("%s-%dK-qd%d", m.mode, m.block>>10, m.depth), func(b *testing.B) {
					measure := func(g commander) func() float64 {
						return func() float64 {
							f := strings.Fields(g.do("disk-bench", "vda", m.mode, fmt.Sprint(m.block), fmt.Sprint(m.depth), seconds))
							ops, _ := strconv.ParseFloat(f[0], 64)
							ns, err := strconv.ParseFloat(f[1], 64)
							if err != nil {
								b.Fatal(f)
							}
							return ops / ns * 1e9
						}
					}
					compare(b, "ops/s", measure(ours), measure(theirs))
				})
			}
		})
	}
}

// BenchmarkNet compares TCP between host and guest through a tap.
func BenchmarkNet(b *testing.B) {
	const n = 64 << 20
	for _, cpus := range counts() {
		b.Run(fmt.Sprintf("cpus=%d", cpus), func(b *testing.B) {
			processors(b, cpus)
			nic := vmm.NIC{Tap: tap(b, "bo0", "10.78.0.1/24"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 8}}
			ours := start(b, vmm.Config{CPUs: cpus, NICs: []vmm.NIC{nic}})
			if out, err := exec.Command("sh", "-c", "ip tuntap add dev bq0 mode tap vnet_hdr && ip addr add 10.79.0.1/24 dev bq0 && ip link set bq0 up").CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			b.Cleanup(func() { exec.Command("ip", "link", "del", "bq0").Run() })
			theirs := startQEMU(b, cpus, "-netdev", "tap,id=n,ifname=bq0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n,romfile=")
			type side struct {
				g           commander
				guest, peer string
			}
			o := side{ours, "10.78.0.2", peer(b, "10.78.0.1:0")}
			t := side{theirs, "10.79.0.2", peer(b, "10.79.0.1:0")}
			for _, s := range []side{o, t} {
				s.g.do("net-up", strings.SplitN(s.g.do("nets"), ":", 2)[0], s.guest+"/24")
				s.g.do("tcp-serve", "5001")
			}
			b.Run("to-guest", func(b *testing.B) {
				f := func(s side) func() float64 {
					return func() float64 {
						begin := time.Now()
						sendTo(b, s.guest+":5001", n, 1)
						return float64(n>>20) / time.Since(begin).Seconds()
					}
				}
				compare(b, "MiB/s", f(o), f(t))
			})
			b.Run("from-guest", func(b *testing.B) {
				f := func(s side) func() float64 {
					return func() float64 {
						f := strings.Fields(s.g.do("tcp-send", s.peer, fmt.Sprint(n), "3"))
						if len(f) != 3 || f[0] != f[1] {
							b.Fatalf("checksums differ: %v", f)
						}
						ns, _ := strconv.ParseFloat(f[2], 64)
						return float64(n>>20) / ns * 1e9
					}
				}
				compare(b, "MiB/s", f(o), f(t))
			})
			b.Run("round-trips", func(b *testing.B) {
				f := func(s side) func() float64 {
					return func() float64 {
						const n = 1000
						ns, err := strconv.ParseFloat(strings.TrimSpace(s.g.do("tcp-rr", s.peer, fmt.Sprint(n), "64")), 64)
						if err != nil {
							b.Fatal(err)
						}
						return n / ns * 1e9
					}
				}
				compare(b, "trips/s", f(o), f(t))
			})
		})
	}
}
