// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && linux

package testguest_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testguest"
)

// start boots the guest under QEMU with KVM: the guest itself is under test
// here, not our hypervisor.
func start(t *testing.T, ctx context.Context, disk string) *testguest.Client {
	t.Helper()
	files, err := testguest.Find()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-enable-kvm", "-cpu", "host", "-machine", "q35", "-smp", "2", "-m", "256",
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-monitor", "none",
		"-kernel", files.Kernel, "-initrd", files.Initrd, "-append", testguest.Cmdline(testguest.Serial),
		"-drive", "if=none,id=d,format=raw,discard=unmap,file="+disk, "-device", "virtio-blk-pci,drive=d,serial=DISK1",
		"-device", "virtio-rng-pci")
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
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return testguest.NewClient(out, in)
}

func TestGuest(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	disk := filepath.Join("/var/tmp", "testguest.raw")
	t.Cleanup(func() { os.Remove(disk) })
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 64<<20); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	g := start(t, ctx, disk)
	if err := g.Init(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("init after %s", time.Since(begin))
	if err := g.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("ready after %s", time.Since(begin))
	do := func(want string, command ...string) string {
		t.Helper()
		got, err := g.Do(ctx, command...)
		if err != nil {
			t.Fatal(err)
		}
		if want != "" && got != want {
			t.Fatalf("%s: %q, want %q", command, got, want)
		}
		return got
	}
	do("pong", "ping")
	do("2", "cpus")
	do("vda:67108864", "disks")
	do("DISK1", "disk-serial", "vda")
	if n := len(do("", "rng", "32")); n != 64 {
		t.Errorf("rng: %d digits", n)
	}

	const offset, length, seed = 1 << 20, 16 << 20, 7
	want := testguest.PatternSum(seed, offset, length).String()
	do(want, "disk-fill", "vda", "1048576", "16777216", "7")
	do(want, "disk-sum", "vda", "1048576", "16777216")
	content, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	var sum testguest.Sum
	sum.Add(content[offset : offset+length])
	if sum.String() != want {
		t.Errorf("the disk's file sums to %s, want %s", sum, want)
	}
	do("", "disk-zero", "vda", "1048576", "16777216")
	var zero testguest.Sum
	zero.Add(make([]byte, length))
	do(zero.String(), "disk-sum", "vda", "1048576", "16777216")
	for _, mode := range []string{"read", "randread", "write", "randwrite"} {
		if f := strings.Fields(do("", "disk-bench", "vda", mode, "4096", "4", "1")); len(f) != 2 || f[0] == "0" {
			t.Errorf("disk-bench %s: %q", mode, f)
		}
	}

	do("", "tcp-serve", "7")
	f := strings.Fields(do("", "tcp-send", "127.0.0.1:7", "10000000", "3"))
	if sent := testguest.PatternSum(3, 0, 10000000).String(); len(f) != 3 || f[0] != sent || f[1] != sent {
		t.Errorf("tcp-send: %q, want twice %s", f, sent)
	}
	do("", "tcp-rr", "127.0.0.1:7", "100", "64")
	if _, err := g.Do(ctx, "no-such-command"); err == nil || !strings.Contains(err.Error(), "unknown command") {
		t.Errorf("an unknown command: %v", err)
	}
	if err := g.Send("reboot"); err != nil {
		t.Fatal(err)
	}
	if err := g.Wait(ctx, "READY", 2); err != nil {
		t.Fatal(err)
	}
	do("pong", "ping")
	if err := g.Send("poweroff"); err != nil {
		t.Fatal(err)
	}
	if err := g.Wait(ctx, "no-such-mark", 1); err == nil || !strings.Contains(err.Error(), testguest.ErrGone.Error()) {
		t.Errorf("after poweroff: %v", err)
	}
}
