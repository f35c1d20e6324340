// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && (linux || guests)

package vmm_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/internal/testguest"
	"github.com/skepvm/skep/vmm"
	"github.com/skepvm/skep/vmm/boot"
	vnet "github.com/skepvm/skep/vmm/virtio/net"
)

// machine is one that runs the small test guest.
type machine struct {
	*testguest.Client
	t   testing.TB
	m   *vmm.Machine
	ctx context.Context

	mu     sync.Mutex
	events []vmm.Event

	ran chan struct{}
	end vmm.End
	err error
}

func launch(t testing.TB, cfg vmm.Config, extra ...string) *machine {
	t.Helper()
	return launchFor(t, patience, cfg, extra...)
}

// launchFor is launch of a guest that has more to do.
func launchFor(t testing.TB, limit time.Duration, cfg vmm.Config, extra ...string) *machine {
	t.Helper()
	files, err := testguest.Find()
	if err != nil {
		t.Fatal(err)
	}
	open := func(p string) *os.File {
		f, err := os.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	g := &machine{t: t, ctx: ctx, ran: make(chan struct{})}
	if cfg.Memory == 0 {
		cfg.Memory = 256 * vmm.MiB
	}
	console := testguest.Serial
	if cfg.Console != nil {
		console = testguest.Virtio
	}
	cfg.Boot = boot.Linux{Kernel: open(files.Kernel), Initrd: open(files.Initrd), Cmdline: testguest.Cmdline(console, extra...)}
	r, w := io.Pipe()
	cfg.Serial = w
	if cfg.Console != nil {
		cfg.Serial, cfg.Console = nil, w
	}
	cfg.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	cfg.Events = func(e vmm.Event) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.events = append(g.events, e)
	}
	if g.m, err = vmm.New(cfg); err != nil {
		t.Fatal(err)
	}
	in := g.m.SerialInput()
	if cfg.Console != nil {
		in = g.m.ConsoleInput()
	}
	g.Client = testguest.NewClient(r, in)
	go func() {
		defer close(g.ran)
		g.end, g.err = g.m.Run(ctx)
		w.Close()
	}()
	t.Cleanup(func() {
		g.m.Kill()
		<-g.ran
		if err := g.m.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("%v\n%s", g.end, g.Transcript())
			if g.end.Registers != nil {
				t.Logf("%v", g.end.Registers)
			}
		}
		cancel()
	})
	if err := g.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return g
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) { w.t.Logf("%s", p); return len(p), nil }

func (g *machine) do(command ...string) string {
	g.t.Helper()
	s, err := g.Do(g.ctx, command...)
	if err != nil {
		g.t.Fatalf("%v: %v", command, err)
	}
	return s
}

func (g *machine) number(command ...string) int64 {
	g.t.Helper()
	n, err := strconv.ParseInt(strings.Fields(g.do(command...))[0], 10, 64)
	if err != nil {
		g.t.Fatalf("%v: %v", command, err)
	}
	return n
}

func (g *machine) wait(cause vmm.Cause) {
	g.t.Helper()
	select {
	case <-g.ran:
	case <-time.After(patience):
		g.t.Fatal("the machine does not end")
	}
	if g.end.Cause != cause {
		g.t.Errorf("ended: %v, want %v", g.end, cause)
	}
}

func TestProcessors(t *testing.T) {
	for _, n := range []int{1, 2, 4, most} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			g := launch(t, vmm.Config{CPUs: n})
			if got := g.number("cpus"); got != int64(n) {
				t.Errorf("the guest sees %d processors", got)
			}
			if n > 1 {
				if got := g.do("cat", fmt.Sprintf("/sys/devices/system/cpu/cpu%d/topology/core_siblings_list", n-1)); !strings.HasPrefix(got, fmt.Sprintf("0-%d", n-1)) {
					t.Errorf("one socket of %d cores is seen as %q", n, got)
				}
			}
			g.do("load", "1", fmt.Sprint(n))
			if err := g.Send("poweroff"); err != nil {
				t.Fatal(err)
			}
			g.wait(vmm.PowerOff)
		})
	}
}

func TestMemory(t *testing.T) {
	for _, gib := range []int64{3, 5} {
		t.Run(fmt.Sprint(gib), func(t *testing.T) {
			const size = 8 << 20
			path, f := disk(t, size)
			g := launch(t, vmm.Config{CPUs: 1, Memory: uint64(gib) << 30, Disks: []vmm.Disk{{File: f}}})
			// What the kernel took for itself is missing.
			if got := g.number("memory"); got > gib<<30 || got < gib<<30-gib<<30/16 {
				t.Errorf("the guest sees %d bytes", got)
			}
			if gib <= 4 {
				if s, err := g.Do(g.ctx, "disk-high", "vda", "0", "4096", "1"); err == nil || !strings.Contains(err.Error(), "no memory above 4 GiB") {
					t.Errorf("memory above 4 GiB: %s, %v", s, err)
				}
				return
			}
			// What lies above 4 GiB can be used, by the guest and by its devices.
			want := testguest.PatternSum(9, 0, size).String()
			got := strings.Fields(g.do("disk-high", "vda", "0", fmt.Sprint(size), "9"))
			if len(got) != 3 || got[0] != want || got[1] != want {
				t.Fatalf("wrote and read %v, want %s", got, want)
			}
			if at, err := strconv.ParseUint(got[2], 10, 64); err != nil || at < 4<<30 || at >= uint64(gib+1)<<30 {
				t.Errorf("the buffer lies at %s", got[2])
			}
			// Through another buffer, and on the host.
			if s := g.do("disk-sum", "vda", "0", fmt.Sprint(size)); s != want {
				t.Errorf("read %s, want %s", s, want)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var sum testguest.Sum
			if sum.Add(b); sum.String() != want {
				t.Errorf("the file holds %v, want %s", sum, want)
			}
		})
	}
}

// disk makes a sparse raw image.
func disk(t *testing.T, size int64) (string, *os.File) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "disk"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f.Name(), f
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestDisk(t *testing.T) {
	const size = int64(1 << 30)
	f, err := os.CreateTemp(holesDir, "disk")
	if err != nil {
		t.Fatal(err)
	}
	path := f.Name()
	t.Cleanup(func() { os.Remove(path) })
	if err := f.Truncate(2 * size); err != nil {
		t.Fatal(err)
	}
	g := launchFor(t, 4*patience, vmm.Config{CPUs: 2, Disks: []vmm.Disk{{File: f, Serial: "abc-123"}}})
	if got := g.do("disk-serial", "vda"); got != "abc-123" {
		t.Errorf("serial %q", got)
	}
	wrote := g.do("disk-fill", "vda", "1048576", fmt.Sprint(size), "7")
	if read := g.do("disk-sum", "vda", "1048576", fmt.Sprint(size)); read != wrote {
		t.Errorf("wrote %s, read %s", wrote, read)
	}
	again, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	var sum testguest.Sum
	buf := make([]byte, 1<<20)
	for at := int64(1 << 20); at <= size; at += int64(len(buf)) {
		if _, err := again.ReadAt(buf, at); err != nil {
			t.Fatal(err)
		}
		sum.Add(buf)
	}
	if sum.String() != wrote {
		t.Errorf("the file holds %v, the guest wrote %s", sum, wrote)
	}
	full := allocated(t, path)
	g.do("disk-discard", "vda", "1048576", fmt.Sprint(size))
	if now := allocated(t, path); now > full-size/2 {
		t.Errorf("discard left %d of %d bytes allocated", now, full)
	}
	plan := testguest.Plan{Length: 64 << 20, Writers: 4, Requests: 60, Seed: 11}
	begin := time.Now()
	did := g.do(plan.Command("vda")...)
	t.Logf("disk-verify in %v: %s", time.Since(begin), did)
	if err := plan.Check(again); err != nil {
		t.Errorf("the file: %v", err)
	}
	s := g.m.Stats()
	if len(s.VCPUs) != 2 || s.State != vmm.Running || s.Uptime <= 0 {
		t.Errorf("%+v", s)
	}
	if d := s.Disks; len(d) != 1 || d[0].WrittenBytes < uint64(size) || d[0].ReadBytes < uint64(size) || d[0].Discards == 0 || d[0].Flushes == 0 || d[0].Errors != 0 {
		t.Errorf("%+v", d)
	}
}

func TestReadOnlyDisk(t *testing.T) {
	_, f := disk(t, 1<<20)
	g := launch(t, vmm.Config{Disks: []vmm.Disk{{File: f, ReadOnly: true}}})
	if s, err := g.Do(g.ctx, "disk-fill", "vda", "0", "4096", "1"); err == nil {
		t.Errorf("a read-only disk was written: %s", s)
	}
}

// wire is a cable between two machines.
func wire(t *testing.T) [2]vmm.NIC {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var n [2]vmm.NIC
	for i, fd := range fds {
		b, err := vnet.NewSocket(os.NewFile(uintptr(fd), "wire"), vnet.Csum|vnet.TSO4|vnet.TSO6)
		if err != nil {
			t.Fatal(err)
		}
		n[i] = vmm.NIC{Backend: b, MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(i + 1)}}
	}
	return n
}

func TestNetwork(t *testing.T) {
	n := wire(t)
	a := launch(t, vmm.Config{NICs: n[:1]})
	b := launch(t, vmm.Config{NICs: n[1:]})
	a.do("net-up", "eth0", "10.9.0.1/24")
	b.do("net-up", "eth0", "10.9.0.2/24")
	a.do("tcp-serve", "7")
	f := strings.Fields(b.do("tcp-send", "10.9.0.1:7", fmt.Sprint(4<<20), "3"))
	if len(f) < 2 || f[0] != f[1] {
		t.Errorf("what was sent is not what arrived: %v", f)
	}
	b.do("tcp-rr", "10.9.0.1:7", "200", "64")
}

func TestVirtioConsole(t *testing.T) {
	// The kernel's own console is the serial line: hvc0 comes with its module.
	g := launch(t, vmm.Config{Console: io.Discard}, "console="+testguest.Serial)
	if got := g.do("ping"); got != "pong" {
		t.Errorf("%q", got)
	}
}

func TestRandom(t *testing.T) {
	g := launch(t, vmm.Config{})
	if a, b := g.do("rng", "64"), g.do("rng", "64"); a == b {
		t.Errorf("the same random bytes twice: %s", a)
	}
}

func TestReboot(t *testing.T) {
	_, f := disk(t, 16<<20)
	g := launch(t, vmm.Config{CPUs: 2, Disks: []vmm.Disk{{File: f}}})
	sum := g.do("disk-fill", "vda", "0", "1048576", "5")
	for n, how := range []string{"reboot", "crash"} { // a panic reboots at once: panic=-1
		if err := g.Send(how); err != nil {
			t.Fatal(err)
		}
		if err := g.Wait(g.ctx, "READY", n+2); err != nil {
			t.Fatal(err)
		}
		if got := g.number("cpus"); got != 2 {
			t.Errorf("%d processors after a reboot", got)
		}
		if got := g.do("disk-sum", "vda", "0", "1048576"); got != sum {
			t.Errorf("after a reboot the disk holds %s, want %s", got, sum)
		}
	}
	if err := g.m.Reset(g.ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.Wait(g.ctx, "READY", 4); err != nil {
		t.Fatal(err)
	}
	if err := g.Send("poweroff"); err != nil {
		t.Fatal(err)
	}
	g.wait(vmm.PowerOff)
	if g.end.Reboots != 3 {
		t.Errorf("%d reboots", g.end.Reboots)
	}
	var kinds []vmm.EventKind
	for _, e := range g.events {
		kinds = append(kinds, e.Kind)
	}
	if fmt.Sprint(kinds) != "[started rebooted rebooted rebooted ended]" {
		t.Error(kinds)
	}
}

func TestPowerButton(t *testing.T) {
	g := launch(t, vmm.Config{})
	// Pressed again as a person would: a press before the guest's init has
	// opened its event device is not seen.
	for pressed := false; !pressed; {
		if err := g.m.PowerButton(g.ctx); err != nil {
			t.Fatal(err)
		}
		select {
		case <-g.ran:
			pressed = true
		case <-time.After(5 * time.Second):
			pressed = strings.Contains(g.Transcript(), "@@ EVENT power-button")
		case <-g.ctx.Done():
			t.Fatal("the guest does not see the button")
		}
	}
	// The guest's init tells of it and powers off.
	g.wait(vmm.PowerOff)
	if s := g.Transcript(); !strings.Contains(s, "@@ EVENT power-button") {
		t.Error("the guest powered off without having seen the button")
	}
}

func TestTripleFaultIsTold(t *testing.T) {
	g := launch(t, vmm.Config{CPUs: 2})
	if err := g.Send("triple-fault"); err != nil {
		t.Fatal(err)
	}
	if !tripleFaultsEnd() {
		select {
		case <-g.ran:
			t.Errorf("it ended: %v %v", g.end, g.err)
		case <-time.After(5 * time.Second):
		}
		g.m.Kill()
		g.wait(vmm.Killed)
		return
	}
	g.wait(vmm.TripleFault)
	if g.end.Registers == nil || g.end.VCPU < 0 || g.err == nil {
		t.Errorf("%+v %v", g.end, g.err)
	}
}

// TestPauseUnderLoad: processors, disk and clock all at once; what the guest
// does goes on as if nothing had been, and its clocks agree with the host's.
func TestPauseUnderLoad(t *testing.T) {
	_, f := disk(t, 64<<20)
	g := launch(t, vmm.Config{CPUs: 2, Disks: []vmm.Disk{{File: f}}})
	type answer struct {
		s   string
		err error
	}
	load, fill := make(chan answer, 1), make(chan answer, 1)
	go func() {
		s, err := g.Do(g.ctx, "load", "8", "2")
		load <- answer{s, err}
	}()
	go func() {
		s, err := g.Do(g.ctx, "disk-fill", "vda", "0", fmt.Sprint(32<<20), "9")
		fill <- answer{s, err}
	}()
	for range 5 {
		time.Sleep(300 * time.Millisecond)
		if err := g.m.Pause(g.ctx); err != nil {
			t.Fatal(err)
		}
		if s := g.m.State(); s != vmm.Paused {
			t.Fatal(s)
		}
		before := g.m.Stats().VCPUs
		time.Sleep(500 * time.Millisecond)
		if after := g.m.Stats().VCPUs; fmt.Sprint(before) != fmt.Sprint(after) {
			t.Errorf("a paused machine made exits: %v, %v", before, after)
		}
		if err := g.m.Resume(g.ctx); err != nil {
			t.Fatal(err)
		}
	}
	for what, c := range map[string]chan answer{"load": load, "disk-fill": fill} {
		if a := <-c; a.err != nil {
			t.Errorf("%s: %v", what, a.err)
		} else if what == "disk-fill" {
			if got := g.do("disk-sum", "vda", "0", fmt.Sprint(32<<20)); got != a.s {
				t.Errorf("the disk holds %s, want %s", got, a.s)
			}
		}
	}
	host := time.Now()
	if off := time.Unix(0, g.number("time")).Sub(host); off < -time.Second || off > 2*time.Second {
		t.Errorf("the guest's clock is off by %v", off)
	}
}

func TestKillAtAnyTime(t *testing.T) {
	files, err := testguest.Find()
	if err != nil {
		t.Fatal(err)
	}
	k, err := os.Open(files.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	for i := range 10 {
		m, err := vmm.New(vmm.Config{CPUs: 2, Memory: 128 * vmm.MiB, Boot: boot.Linux{Kernel: k}})
		if err != nil {
			t.Fatal(err)
		}
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			time.Sleep(time.Duration(i) * 100 * time.Millisecond)
			for m.Kill(); ; m.Kill() { // also while it is being closed
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Microsecond):
				}
			}
		}()
		if end, err := m.Run(context.Background()); end.Cause != vmm.Killed || err != nil {
			t.Errorf("%v %v", end, err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		close(stop)
		<-stopped
		m.Kill()
	}
}
