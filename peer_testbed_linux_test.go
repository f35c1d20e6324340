// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package skep

import (
	"context"
	"fmt"
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
	compare(b, "qemu", "s/start", ours, theirs)
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
			for _, m := range blockModes {
				b.Run(fmt.Sprintf("%s-%dK-qd%d", m.mode, m.block>>10, m.depth), func(b *testing.B) {
					measure := func(g *testguest.Client) func() float64 {
						return func() float64 {
							return rate(b, command(b, g, "disk-bench", "vda", m.mode, fmt.Sprint(m.block), fmt.Sprint(m.depth), seconds))
						}
					}
					compare(b, "qemu", "ops/s", measure(ours), measure(theirs))
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
	for _, cpus := range counts(b) {
		b.Run(fmt.Sprintf("cpus=%d", cpus), func(b *testing.B) {
			m, ours := startOurs(b, newPlace(b), func(s *MachineSpec) { s.CPUs = cpus })
			bridgedTap(b, "bq0")
			theirs, _ := startQEMU(b, cpus, peerMemory, "-netdev", "tap,id=n,ifname=bq0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n,romfile=")
			o := side{g: ours, addr: m.Status().Address.Addr().String()}
			t := side{g: theirs, addr: "10.77.0.200"}
			for _, s := range []side{o, t} {
				nic, _, _ := strings.Cut(command(b, s.g, "nets"), ":")
				command(b, s.g, "net-up", nic, s.addr+"/24")
			}
			benchTCP(b, "qemu", m.Status().Gateway.String(), 64*MiB, o, t)
		})
	}
}
