// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && guests

// These tests are asked for by the tag guests: they want a FreeBSD guest, which
// no testbed brings (see guestFile).

package boot_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testguest"
	"github.com/skepvm/skep/internal/testnet"
	"github.com/skepvm/skep/vmm"
	"github.com/skepvm/skep/vmm/boot"
)

// screen collects what a guest writes to its console and lets a test wait for
// some of it.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

func newScreen() *screen { return &screen{more: make(chan struct{})} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
	close(s.more)
	s.more = make(chan struct{})
	return len(p), nil
}

// wait returns the line that holds what, of those that come after from, and
// where it ends.
func (s *screen) wait(t *testing.T, ctx context.Context, from int, what string) (line string, end int) {
	t.Helper()
	for {
		s.mu.Lock()
		text, more := s.text.String(), s.more
		s.mu.Unlock()
		if i := strings.Index(text[from:], what); i >= 0 {
			if n := strings.IndexByte(text[from+i:], '\n'); n >= 0 {
				return strings.TrimSpace(text[from+i : from+i+n]), from + i + n
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			t.Fatalf("no %q on the console:\n%s", what, text)
		}
	}
}

// guestFile opens a part of the FreeBSD guest, which internal/fbsdinit/build.sh
// makes.
func guestFile(t *testing.T, name string) *os.File {
	t.Helper()
	dir := os.Getenv("SKEP_FREEBSD_GUEST")
	if dir == "" {
		t.Fatal("SKEP_FREEBSD_GUEST does not name the directory that internal/fbsdinit/build.sh makes")
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// guest is a running FreeBSD.
type guest struct {
	t    *testing.T
	ctx  context.Context
	m    *vmm.Machine
	out  *screen
	at   int // what the console has said up to here has been dealt with
	done chan ended
}

type ended struct {
	end vmm.End
	err error
}

// The guest's network, and the host's end of it.
const (
	hostAddr, guestAddr = "10.76.2.1", "10.76.2.2"
	netBits             = "/24"
)

// startGuest boots FreeBSD on a memory disk, with modules, an empty disk of 64 MiB
// and a network card.
func startGuest(t *testing.T, cpus int, memory uint64, modules ...string) *guest {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	disk, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	if err := disk.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	src := boot.FreeBSD{
		Kernel:  guestFile(t, "kernel"),
		Modules: []boot.FreeBSDModule{{Name: "/boot/root.img", Type: "mfs_root", File: guestFile(t, "root.img")}},
		Env: map[string]string{"vfs.root.mountfrom": "ufs:/dev/md0",
			// QEMU's emulation before 8.2 does not let a nested hypervisor see
			// XSETBV, so that KVM there tells a guest a wrong size of its state.
			"hw.use_xsave": "0"},
	}
	for _, name := range modules {
		src.Modules = append(src.Modules, boot.FreeBSDModule{Name: "/boot/kernel/" + name, File: guestFile(t, name)})
	}
	g := &guest{t: t, ctx: ctx, out: newScreen(), done: make(chan ended, 1)}
	g.m, err = vmm.New(vmm.Config{CPUs: cpus, Memory: memory, Serial: g.out, Boot: src, Disks: []vmm.Disk{{File: disk}},
		NICs: []vmm.NIC{{Tap: testnet.Tap(t, "bt0", hostAddr+netBits), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 11}}}})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		end, err := g.m.Run(ctx)
		g.done <- ended{end, err}
	}()
	t.Cleanup(func() {
		cancel()
		g.m.Close()
	})
	return g
}

// wait returns the rest of the line that begins with what.
func (g *guest) wait(what string) string {
	g.t.Helper()
	line, at := g.out.wait(g.t, g.ctx, g.at, what)
	g.at = at
	return strings.TrimSpace(strings.TrimPrefix(line, what))
}

func (g *guest) say(order string) {
	g.t.Helper()
	if _, err := g.m.SerialInput().Write([]byte(order + "\n")); err != nil {
		g.t.Fatal(err)
	}
}

// ask runs a command of package testguest.
func (g *guest) ask(command ...string) string {
	g.t.Helper()
	g.say("1 " + strings.Join(command, " "))
	answer := g.wait("@@ ")
	result, ok := strings.CutPrefix(answer, "OK 1")
	if !ok {
		g.t.Fatalf("%v: %s", command, answer)
	}
	return strings.TrimSpace(result)
}

// end waits until the machine has ended.
func (g *guest) end() ended {
	g.t.Helper()
	select {
	case e := <-g.done:
		return e
	case <-g.ctx.Done():
		g.t.Fatal("the machine does not end")
	}
	return ended{}
}

// network has guest and host send each other something.
func (g *guest) network(seed uint64) {
	g.t.Helper()
	const size = 1 << 20
	want := testguest.PatternSum(seed, 0, size).String()
	g.ask("net-up", "vtnet0", guestAddr+netBits)
	g.ask("tcp-serve", "5001")
	if got := testnet.Send(g.t, guestAddr+":5001", size, seed); got != want {
		g.t.Errorf("the guest received what sums to %s, want %s", got, want)
	}
	got := g.ask("tcp-send", testnet.Serve(g.t, hostAddr+":0"), fmt.Sprint(size), fmt.Sprint(seed))
	if sums := strings.Fields(got); len(sums) != 3 || sums[0] != want || sums[1] != want {
		g.t.Errorf("the host received what sums to %q, want %s", got, want)
	}
}

// TestFreeBSDGuest boots FreeBSD, has it use every processor, the disk, the network,
// the modules and the clock, reboots it in place and lets it power off.
func TestFreeBSDGuest(t *testing.T) {
	for _, cpus := range []int{1, 2, 4} {
		t.Run(fmt.Sprintf("%d CPUs", cpus), func(t *testing.T) {
			// Modules in the wrong order: if_bridge needs bridgestp.
			g := startGuest(t, cpus, 512*vmm.MiB, "if_bridge.ko", "bridgestp.ko")
			for boots := range 2 {
				start := time.Now()
				up := g.wait("SKEP-INIT up")
				t.Logf("boot %d after %v: %s", boots, time.Since(start).Round(time.Millisecond), up)
				if !strings.Contains(up, fmt.Sprintf("cpus=%d ", cpus)) {
					t.Errorf("the guest sees %q", up)
				}
				g.wait("@@ READY")
				g.say("work")
				if got := g.wait("SKEP-INIT worked on"); got != fmt.Sprintf("%d cpus", cpus) {
					t.Errorf("worked on %s", got)
				}
				g.say("disk /dev/vtbd0")
				if got := g.wait("SKEP-INIT disk"); got != "ok" {
					t.Errorf("disk: %s", got)
				}
				g.network(uint64(boots))
				for _, m := range []string{"if_bridge", "bridgestp", "zfs"} {
					g.say("module " + m)
					if got, want := g.wait("SKEP-INIT module "+m), fmt.Sprint(m != "zfs"); got != want {
						t.Errorf("module %s is there: %s, wanted %s", m, got, want)
					}
				}
				g.say("time")
				var unix int64
				if got := g.wait("SKEP-INIT time"); true {
					if _, err := fmt.Sscan(got, &unix); err != nil {
						t.Errorf("time %q: %v", got, err)
					}
				}
				if off := time.Since(time.Unix(unix, 0)); off < -3*time.Second || off > 3*time.Second {
					t.Errorf("the guest's clock is off by %v", off)
				}
				if boots == 0 {
					g.say("reboot")
				}
			}
			g.say("poweroff")
			if e := g.end(); e.err != nil || e.end.Cause != vmm.PowerOff || e.end.Reboots != 1 {
				t.Errorf("ended %+v, %v", e.end, e.err)
			}
		})
	}
}

// TestFreeBSDHighMemory: memory above the PCI hole is seen.
func TestFreeBSDHighMemory(t *testing.T) {
	g := startGuest(t, 1, 3328*vmm.MiB)
	var cpus, mib int
	if up := g.wait("SKEP-INIT up"); true {
		if _, err := fmt.Sscanf(up, "cpus=%d mem=%dMiB", &cpus, &mib); err != nil {
			t.Fatalf("%q: %v", up, err)
		}
	}
	if mib < 3328-128 || mib > 3328 {
		t.Errorf("the guest sees %d MiB", mib)
	}
	g.say("poweroff")
	if e := g.end(); e.err != nil || e.end.Cause != vmm.PowerOff {
		t.Errorf("ended %+v, %v", e.end, e.err)
	}
}
