// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package skep

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testguest"
	"github.com/vishvananda/netlink"
)

// What follows compares a machine of ours, a worker in its sandbox as the daemon
// starts it, with QEMU's microvm: the same guest, memory, backing file and bridge.

const peerMemory = 512 * MiB

// command has a guest do something, whoever runs it.
func command(b *testing.B, g *testguest.Client, what ...string) string {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.Context()), 2*time.Minute)
	defer cancel()
	s, err := g.Do(ctx, what...)
	if err != nil {
		b.Fatalf("%s: %v", strings.Join(what, " "), err)
	}
	return s
}

// startQEMU boots the guest under QEMU and waits until it takes commands.
func startQEMU(b *testing.B, cpus int, memory int64, args ...string) (*testguest.Client, *exec.Cmd) {
	b.Helper()
	files, err := testguest.Find()
	if err != nil {
		b.Fatal(err)
	}
	args = append([]string{
		"-M", "microvm,pcie=on,accel=kvm", "-cpu", "host", "-smp", strconv.Itoa(cpus), "-m", fmt.Sprint(memory / MiB), "-nodefaults", "-no-user-config",
		"-display", "none", "-serial", "stdio", "-kernel", files.Kernel, "-initrd", files.Initrd,
		"-append", testguest.Cmdline(testguest.Serial), "-device", "virtio-rng-pci",
	}, args...)
	cmd := exec.Command("qemu-system-x86_64", args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	g := testguest.NewClient(out, in)
	if err := g.Ready(bounded(b, 3*time.Minute)); err != nil {
		b.Fatalf("qemu: %v\n%s", err, g.Transcript())
	}
	return g, cmd
}

// startOurs boots the guest as a machine of a Host.
func startOurs(b *testing.B, p place, change func(*MachineSpec)) (*Machine, *testguest.Client) {
	b.Helper()
	h := realHost(b, p)
	spec := tinySpec("vm1")
	spec.Memory = peerMemory
	change(&spec)
	m := create(b, h, spec)
	b.Cleanup(func() {
		if err := m.Destroy(context.WithoutCancel(b.Context())); err != nil {
			b.Error(err)
		}
	})
	if spec.Stopped {
		return m, nil
	}
	return m, inside(b, m)
}

// counts are the numbers of guests' processors that figures are taken with: no
// more than the host has.
func counts(b *testing.B) []int {
	b.Helper()
	online, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		b.Fatal(err)
	}
	if strings.TrimSpace(string(online)) == "0" {
		return []int{1}
	}
	return []int{1, 2}
}

// compare reports what ours and theirs measure, and the ratio of the sums. Each
// figure is taken from either side in turn, three times, so that what else the host
// does weighs on both.
func compare(b *testing.B, unit string, ours, theirs func() float64) {
	const rounds = 3
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

// BenchmarkStart compares the time from the order to start a machine until its
// guest's init takes commands.
func BenchmarkStart(b *testing.B) {
	m, _ := startOurs(b, newPlace(b), func(s *MachineSpec) { s.Stopped = true })
	ours := func() float64 {
		begin := time.Now()
		if err := m.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		c, err := m.Console(context.WithoutCancel(b.Context()))
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		if err := testguest.NewClient(c, c).Ready(bounded(b, 3*time.Minute)); err != nil {
			b.Fatal(err)
		}
		took := time.Since(begin).Seconds()
		if err := m.Stop(b.Context(), StopOptions{Force: true}); err != nil {
			b.Fatal(err)
		}
		return took
	}
	theirs := func() float64 {
		begin := time.Now()
		_, cmd := startQEMU(b, 1, peerMemory)
		took := time.Since(begin).Seconds()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return took
	}
	compare(b, "s/start", ours, theirs)
}

// BenchmarkBlock compares disks on the same kind of file, by the guest's own
// count: O_DIRECT in the guest, the host's page cache behind both.
func BenchmarkBlock(b *testing.B) {
	const (
		size    = 256 * MiB
		seconds = "4" // of each measurement: emulation does a few dozen large requests in one
	)
	for _, cpus := range counts(b) {
		b.Run(fmt.Sprintf("cpus=%d", cpus), func(b *testing.B) {
			p := newPlace(b)
			_, ours := startOurs(b, p, func(s *MachineSpec) { s.CPUs, s.Disk = cpus, size })
			file := filepath.Join(p.dir, "theirs")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				b.Fatal(err)
			}
			if err := os.Truncate(file, size); err != nil {
				b.Fatal(err)
			}
			theirs, _ := startQEMU(b, cpus, peerMemory, "-object", "iothread,id=io", "-drive", "if=none,id=d,format=raw,cache=writeback,discard=unmap,file="+file,
				"-device", fmt.Sprintf("virtio-blk-pci,drive=d,iothread=io,num-queues=%d", cpus))
			for _, g := range []*testguest.Client{ours, theirs} {
				command(b, g, "disk-fill", "vda", "0", fmt.Sprint(size), "1")
			}
			for _, m := range []struct {
				mode         string
				block, depth int
			}{
				{"randread", 4096, 1}, {"randread", 4096, 32}, {"randwrite", 4096, 1}, {"randwrite", 4096, 32},
				{"read", 1 << 20, 4}, {"write", 1 << 20, 4},
			} {
				b.Run(fmt.Sprintf("%s-%dK-qd%d", m.mode, m.block>>10, m.depth), func(b *testing.B) {
					measure := func(g *testguest.Client) func() float64 {
						return func() float64 {
							f := strings.Fields(command(b, g, "disk-bench", "vda", m.mode, fmt.Sprint(m.block), fmt.Sprint(m.depth), seconds))
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

// bridgedTap is a tap on the machines' bridge, for QEMU.
func bridgedTap(b *testing.B, name string) {
	b.Helper()
	bridge, err := netlink.LinkByName("skep0")
	if err != nil {
		b.Fatal(err)
	}
	la := netlink.NewLinkAttrs()
	la.Name, la.MasterIndex = name, bridge.Attrs().Index
	tap := &netlink.Tuntap{LinkAttrs: la, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_NO_PI}
	if err := netlink.LinkAdd(tap); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := netlink.LinkDel(tap); err != nil {
			b.Error(err)
		}
	})
	if err := netlink.LinkSetUp(tap); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkNet compares TCP between host and guest through a tap on one bridge.
func BenchmarkNet(b *testing.B) {
	const n = 64 * MiB
	for _, cpus := range counts(b) {
		b.Run(fmt.Sprintf("cpus=%d", cpus), func(b *testing.B) {
			m, ours := startOurs(b, newPlace(b), func(s *MachineSpec) { s.CPUs = cpus })
			bridgedTap(b, "bq0")
			theirs, _ := startQEMU(b, cpus, peerMemory, "-netdev", "tap,id=n,ifname=bq0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n,romfile=")
			st := m.Status()
			l, err := net.Listen("tcp", net.JoinHostPort(st.Gateway.String(), "0"))
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { l.Close() })
			go testguest.ServeTCP(l, func(error) {})
			type side struct {
				g    *testguest.Client
				addr string
			}
			o, t := side{ours, st.Address.Addr().String()}, side{theirs, "10.77.0.200"}
			for _, s := range []side{o, t} {
				nic, _, _ := strings.Cut(command(b, s.g, "nets"), ":")
				command(b, s.g, "net-up", nic, s.addr+"/24")
				command(b, s.g, "tcp-serve", "5001")
			}
			b.Run("to-guest", func(b *testing.B) {
				f := func(s side) func() float64 {
					return func() float64 {
						theirs, ours, took, err := testguest.SendTCP(net.JoinHostPort(s.addr, "5001"), n, 1)
						if err != nil || theirs != ours {
							b.Fatalf("checksums %s and %s: %v", theirs, ours, err)
						}
						return float64(n/MiB) / took.Seconds()
					}
				}
				compare(b, "MiB/s", f(o), f(t))
			})
			b.Run("from-guest", func(b *testing.B) {
				f := func(s side) func() float64 {
					return func() float64 {
						f := strings.Fields(command(b, s.g, "tcp-send", l.Addr().String(), fmt.Sprint(n), "3"))
						if len(f) != 3 || f[0] != f[1] {
							b.Fatalf("checksums differ: %v", f)
						}
						ns, err := strconv.ParseFloat(f[2], 64)
						if err != nil {
							b.Fatal(err)
						}
						return float64(n/MiB) / ns * 1e9
					}
				}
				compare(b, "MiB/s", f(o), f(t))
			})
			b.Run("round-trips", func(b *testing.B) {
				f := func(s side) func() float64 {
					return func() float64 {
						const n = 1000
						ns, err := strconv.ParseFloat(command(b, s.g, "tcp-rr", l.Addr().String(), fmt.Sprint(n), "64"), 64)
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
