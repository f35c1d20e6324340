// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && (linux || guests)

// On FreeBSD these tests are asked for by the tag guests, with SKEP_GUEST_DIR
// naming the guest, which the FreeBSD testbed does not bring.

package vmm_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/internal/testguest"
	"github.com/skepvm/skep/internal/testnet"
	"github.com/skepvm/skep/vmm"
	"github.com/skepvm/skep/vmm/boot"
)

// guest is a Linux guest that runs until the test ends.
type guest struct {
	*testguest.Client
	m   *vmm.Machine
	t   testing.TB
	end chan vmm.End
}

// start boots the test guest with what c has besides.
func start(t testing.TB, c vmm.Config, args ...string) *guest {
	t.Helper()
	files, err := testguest.Find()
	if err != nil {
		t.Fatal(err)
	}
	open := func(path string) *os.File {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	if c.Memory == 0 {
		c.Memory = 512 << 20
	}
	r, w := io.Pipe()
	c.Serial = w
	c.Boot = boot.Linux{Kernel: open(files.Kernel), Initrd: open(files.Initrd), Cmdline: testguest.Cmdline(testguest.Serial, args...)}
	m, err := vmm.New(c)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{Client: testguest.NewClient(r, m.SerialInput()), m: m, t: t, end: make(chan vmm.End, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		end, err := m.Run(ctx)
		if err != nil {
			t.Errorf("run: %v", err)
		}
		g.end <- end
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		w.Close()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("console:\n%s", g.Transcript())
		}
	})
	ready, stop := context.WithTimeout(ctx, 2*time.Minute)
	defer stop()
	if err := g.Ready(ready); err != nil {
		t.Fatalf("guest: %v\n%s", err, g.Transcript())
	}
	return g
}

// do runs a command of the guest's init.
func (g *guest) do(command ...string) string {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s, err := g.Do(ctx, command...)
	if err != nil {
		g.t.Fatalf("%s: %v", strings.Join(command, " "), err)
	}
	return s
}

func sparse(t testing.TB, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDevicesLinux(t *testing.T) {
	disk, second := sparse(t, 256<<20), sparse(t, 64<<20)
	var console syncBuffer
	g := start(t, vmm.Config{
		CPUs:    2,
		Console: &console,
		Disks:   []vmm.Disk{{File: disk, Serial: "first-disk"}, {File: second, NoDiscard: true, Queues: 1}},
		NICs:    []vmm.NIC{{Tap: testnet.Tap(t, "dv0", "10.76.0.1/24"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 7}}},
	})
	if got, want := g.do("disks"), fmt.Sprintf("vda:%d vdb:%d", 256<<20, 64<<20); got != want {
		t.Errorf("disks %q, want %q", got, want)
	}
	if got := g.do("disk-serial", "vda"); got != "first-disk" {
		t.Errorf("serial %q", got)
	}
	// A queue for each processor, each served on its own.
	for queue, want := range []string{"0", "1"} {
		if got := g.do("cat", fmt.Sprintf("/sys/block/vda/mq/%d/cpu_list", queue)); got != want {
			t.Errorf("queue %d of vda is of the processors %q, want %q", queue, got, want)
		}
	}
	if got := g.do("cat", "/sys/block/vdb/mq/0/cpu_list"); got != "0, 1" {
		t.Errorf("the one queue of vdb is of the processors %q", got)
	}
	exits := func() (n uint64) {
		for _, c := range g.m.Stats().VCPUs {
			n += c.MMIOAccesses
		}
		return n
	}
	quiet := exits()
	const n = 100 << 20
	want := testguest.PatternSum(42, 0, n).String()
	if got := g.do("disk-fill", "vda", "0", fmt.Sprint(n), "42"); got != want {
		t.Errorf("wrote %s, want %s", got, want)
	}
	if got := g.do("disk-sum", "vda", "0", fmt.Sprint(n)); got != want {
		t.Errorf("read %s, want %s", got, want)
	}
	var sum testguest.Sum
	buf := make([]byte, 1<<20)
	for off := int64(0); off < n; off += int64(len(buf)) {
		if _, err := disk.ReadAt(buf, off); err != nil {
			t.Fatal(err)
		}
		sum.Add(buf)
	}
	if sum.String() != want {
		t.Errorf("the file holds %v, want %s", sum, want)
	}
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Fstat(int(disk.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Blocks) * 512
	}
	before := blocks()
	g.do("disk-discard", "vda", "0", fmt.Sprint(64<<20))
	if after := blocks(); before-after < 60<<20 {
		t.Errorf("discard gave back %d bytes of %d", before-after, 64<<20)
	}
	g.do("disk-zero", "vda", fmt.Sprint(64<<20), fmt.Sprint(16<<20))
	if _, err := disk.ReadAt(buf, 70<<20); err != nil || !bytes.Equal(buf, make([]byte, len(buf))) {
		t.Errorf("not zeroed (%v)", err)
	}

	plan := testguest.Plan{Offset: 128 << 20, Length: 32 << 20, Writers: 4, Requests: 40, Seed: 12}
	t.Logf("disk-verify: %s", g.do(plan.Command("vda")...))
	if err := plan.Check(disk); err != nil {
		t.Errorf("the file: %v", err)
	}

	if got := g.do("nets"); !strings.Contains(got, "02:00:00:00:00:07") {
		t.Errorf("nets %q", got)
	}
	nic := strings.SplitN(g.do("nets"), ":", 2)[0]
	g.do("net-up", nic, "10.76.0.2/24")
	g.do("tcp-serve", "5001")
	much := uint64(64 << 20)
	if runtime.GOOS == "freebsd" {
		much = 4 << 20 // a frame at a time: its taps offload no segmentation
	}
	if got, want := testnet.Send(t, "10.76.0.2:5001", much, 5), testguest.PatternSum(5, 0, much).String(); got != want {
		t.Errorf("the guest received %s, want %s", got, want)
	}
	sums := strings.Fields(g.do("tcp-send", testnet.Serve(t, "10.76.0.1:0"), fmt.Sprint(much), "6"))
	if want := testguest.PatternSum(6, 0, much).String(); len(sums) != 3 || sums[0] != want || sums[1] != want {
		t.Errorf("sums %v, want %s", sums, want)
	}

	if a, b := g.do("rng", "64"), g.do("rng", "64"); len(a) != 128 || a == b {
		t.Errorf("random bytes %q %q", a, b)
	}
	// KVM has doorbells: what the guest asked of its devices, in hundreds of
	// requests, took no exits.
	if n := exits() - quiet; runtime.GOOS == "linux" && n > 100 {
		t.Errorf("%d accesses of registers: the queues have no doorbells", n)
	}
	// And the same after a reboot in place, and across a pause.
	g.Send("reboot")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := g.Wait(ctx, "READY", 2); err != nil {
		t.Fatal(err)
	}
	if err := g.m.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.m.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if got, want := g.do("disk-sum", "vda", fmt.Sprint(80<<20), fmt.Sprint(20<<20)), testguest.PatternSum(42, 80<<20, 20<<20).String(); got != want {
		t.Errorf("after reboot: %s, want %s", got, want)
	}
	g.do("net-up", nic, "10.76.0.2/24")
	g.do("tcp-serve", "5001")
	if got, want := testnet.Send(t, "10.76.0.2:5001", 1<<20, 5), testguest.PatternSum(5, 0, 1<<20).String(); got != want {
		t.Errorf("after reboot the guest received %s, want %s", got, want)
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
