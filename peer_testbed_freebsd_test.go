// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && guests

package skep

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testguest"
)

// What follows compares a machine of ours, a worker in its sandbox as the daemon
// starts it, with bhyveload(8) and bhyve(8): the same FreeBSD guest, which
// SKEP_FREEBSD_GUEST names, with the same memory, devices, backing file and bridge.

// guestEnv is the environment of either's kernel, as vmm/boot's tests have it.
const guestEnv = "vfs.root.mountfrom=ufs:/dev/md0 hw.use_xsave=0"

// loaderConf is what ours tells the kernel of itself, and how bhyveload(8) comes
// to boot it at once.
const loaderConf = `autoboot_delay="-1"
beastie_disable="YES"
loader_logo="none"
mfsroot_load="YES"
mfsroot_type="mfs_root"
mfsroot_name="/boot/root.img"
boot_serial="YES"
hint.uart.0.at="isa"
hint.uart.0.port="0x3F8"
hint.uart.0.irq="4"
hint.uart.0.flags="0x10"
hint.acpi_throttle.0.disabled="1"
hint.p4tcc.0.disabled="1"
`

// bhyveHost makes guests of both kinds.
type bhyveHost struct {
	p      place
	h      *Host
	boot   string // what bhyveload(8) reads
	kernel string
	root   string
	disk   string // a raw file of content: ours are made of it
	// The peer's own copy, and what it has for a machine's seed.
	peerDisk, peerSeed string
	loads              time.Duration // spent in bhyveload(8)
}

const bhyveDisk = 64 * MiB

// newBhyveHost skips where the peer is missing.
func newBhyveHost(b *testing.B) *bhyveHost {
	b.Helper()
	for _, f := range []string{"/usr/sbin/bhyve", "/usr/sbin/bhyveload", "/usr/sbin/bhyvectl", "/boot/userboot.so", "/boot/lua/loader.lua"} {
		if _, err := os.Stat(f); err != nil {
			b.Skipf("NOT MEASURED: ours against bhyve(8), which this FreeBSD host lacks: %v", err)
		}
	}
	dir := os.Getenv("SKEP_FREEBSD_GUEST")
	if dir == "" {
		b.Fatal("SKEP_FREEBSD_GUEST does not name the directory that vmm/boot/internal/fbsdinit/build.sh makes")
	}
	p := newPlace(b)
	v := &bhyveHost{p: p, boot: filepath.Join(p.dir, "loader"), kernel: filepath.Join(dir, "kernel"), root: filepath.Join(dir, "root.img"), disk: filepath.Join(p.dir, "disk.raw"),
		peerDisk: filepath.Join(p.dir, "theirs.raw"), peerSeed: filepath.Join(p.dir, "seed.raw")}
	check := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	content := make([]byte, bhyveDisk)
	testguest.Pattern(content, 1, 0)
	check(os.WriteFile(v.disk, content, 0o600))
	check(os.WriteFile(v.peerDisk, content, 0o600))
	check(os.WriteFile(v.peerSeed, make([]byte, MiB), 0o600))
	check(os.CopyFS(filepath.Join(v.boot, "boot/lua"), os.DirFS("/boot/lua")))
	check(os.CopyFS(filepath.Join(v.boot, "boot/defaults"), os.DirFS("/boot/defaults")))
	check(os.Mkdir(filepath.Join(v.boot, "boot/kernel"), 0o700))
	entropy := make([]byte, 4096)
	_, _ = rand.Read(entropy)
	conf := loaderConf
	for _, e := range strings.Fields(guestEnv) {
		name, value, _ := strings.Cut(e, "=")
		conf += fmt.Sprintf("%s=%q\n", name, value)
	}
	for name, content := range map[string][]byte{"boot/entropy": entropy, "boot/loader.conf": []byte(conf)} {
		check(os.WriteFile(filepath.Join(v.boot, name), content, 0o600))
	}
	for name, from := range map[string]string{"boot/kernel/kernel": v.kernel, "boot/root.img": v.root} {
		content, err := os.ReadFile(from)
		check(err)
		check(os.WriteFile(filepath.Join(v.boot, name), content, 0o600))
	}
	catalogue := filepath.Join(p.dir, "images.yaml")
	check(os.WriteFile(catalogue, fmt.Appendf(nil, `images:
- name: small
  source: %s
  format: raw
  os: freebsd
  user: root
  kernel: {source: %s}
  initrd: {source: %s}
  cmdline: %q
`, v.disk, v.kernel, v.root, guestEnv), 0o600))
	h, err := Open(b.Context(), Config{Store: "dir:" + p.store(), RunDir: p.run(), Catalogue: catalogue, Logger: slog.New(slog.DiscardHandler)})
	check(err)
	b.Cleanup(func() { h.Close() })
	v.h = h
	return v
}

// ours makes a machine of the Host's.
func (v *bhyveHost) ours(b *testing.B, stopped bool) *Machine {
	b.Helper()
	m := create(b, v.h, MachineSpec{Name: "vm1", Image: "small", CPUs: 1, Memory: peerMemory, Disk: bhyveDisk, Stopped: stopped})
	b.Cleanup(func() {
		if err := m.Destroy(context.WithoutCancel(b.Context())); err != nil {
			b.Error(err)
		}
	})
	return m
}

// console speaks with a machine's guest once its init runs.
func (v *bhyveHost) console(b *testing.B, m *Machine) *testguest.Client {
	b.Helper()
	c, err := m.Console(context.WithoutCancel(b.Context()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	g := testguest.NewClient(c, c)
	if err := g.Ready(bounded(b, 10*time.Minute)); err != nil {
		b.Fatal(err)
	}
	return g
}

// bhyve is a guest under bhyve(8).
type bhyve struct {
	name string
	cmd  *exec.Cmd
	g    *testguest.Client
}

// theirs boots the guest by bhyveload(8) and bhyve(8), until its init runs.
func (v *bhyveHost) theirs(b *testing.B, tap string) *bhyve {
	b.Helper()
	t := &bhyve{name: fmt.Sprintf("peer%d", os.Getpid())}
	b.Cleanup(func() { t.end(b) })
	begin := time.Now()
	load := exec.Command("/usr/sbin/bhyveload", "-m", fmt.Sprintf("%dM", peerMemory/MiB), "-h", v.boot, t.name)
	if out, err := load.CombinedOutput(); err != nil {
		b.Fatalf("bhyveload: %v\n%s", err, out)
	}
	v.loads += time.Since(begin)
	// The disks, network and random source of a machine of ours; -H and -P, by
	// which a guest that waits leaves the processor to others.
	t.cmd = exec.Command("/usr/sbin/bhyve", "-H", "-P", "-w", "-c", "1", "-m", fmt.Sprintf("%dM", peerMemory/MiB),
		"-s", "0,hostbridge", "-s", "31,lpc", "-l", "com1,stdio", "-s", "2,virtio-blk,"+v.peerDisk, "-s", "3,virtio-blk,"+v.peerSeed+",ro",
		"-s", "4,virtio-net,"+tap, "-s", "5,virtio-rnd", t.name)
	in, err := t.cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	var stderr bytes.Buffer
	t.cmd.Stderr = &stderr
	if err := t.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	t.g = testguest.NewClient(out, in)
	if err := t.g.Ready(bounded(b, 10*time.Minute)); err != nil {
		t.end(b) // before stderr is read
		b.Fatalf("bhyve: %v\n%s", err, &stderr)
	}
	return t
}

// end takes the machine from bhyve(8) and the kernel, if they have it still.
func (t *bhyve) end(b *testing.B) {
	if t.cmd != nil && t.cmd.Process != nil {
		_ = t.cmd.Process.Kill()
		_ = t.cmd.Wait()
		t.cmd = nil
	}
	if _, err := os.Stat("/dev/vmm/" + t.name); err != nil {
		return
	}
	if out, err := exec.Command("/usr/sbin/bhyvectl", "--vm="+t.name, "--destroy").CombinedOutput(); err != nil {
		b.Errorf("bhyvectl --destroy: %v\n%s", err, out)
	}
}

// BenchmarkBhyve compares with bhyve(8), in one run.
func BenchmarkBhyve(b *testing.B) {
	v := newBhyveHost(b)
	b.Run("start", v.start)
	b.Run("memory", v.memory)
	b.Run("running", v.running)
}

// start compares the time from the order to start a machine until its guest's
// init runs. Of the peer's, bhyveload's part is told besides.
func (v *bhyveHost) start(b *testing.B) {
	m := v.ours(b, true)
	tap := v.tap(b)
	ours := func() float64 {
		begin := time.Now()
		if err := m.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		v.console(b, m)
		took := time.Since(begin).Seconds()
		if err := m.Stop(b.Context(), StopOptions{Force: true}); err != nil {
			b.Fatal(err)
		}
		return took
	}
	n := 0
	theirs := func() float64 {
		begin := time.Now()
		t := v.theirs(b, tap)
		took := time.Since(begin).Seconds()
		t.end(b)
		n++
		return took
	}
	v.loads = 0
	compare(b, "bhyve", "s/start", ours, theirs)
	b.ReportMetric(v.loads.Seconds()/float64(n), "bhyveload-s/start")
}

// memory compares what a worker has resident beside its guest's memory with what
// bhyve(8) has, when the same guest has booted.
func (v *bhyveHost) memory(b *testing.B) {
	m := v.ours(b, false)
	v.console(b, m)
	anon, file := overhead(b, m.Status().WorkerPID, peerMemory)
	t := v.theirs(b, v.tap(b))
	theirAnon, theirFile := overhead(b, t.cmd.Process.Pid, peerMemory)
	b.ReportMetric(float64(anon)/MiB, "MiB")
	b.ReportMetric(float64(theirAnon)/MiB, "bhyve-MiB")
	b.ReportMetric(float64(anon)/float64(theirAnon), "ratio")
	b.ReportMetric(float64(file)/MiB, "file-MiB")
	b.ReportMetric(float64(theirFile)/MiB, "bhyve-file-MiB")
	b.ReportMetric(0, "ns/op")
}

// running compares two guests that have booted, one of which runs at a time.
func (v *bhyveHost) running(b *testing.B) {
	const seconds = "4" // of each measurement
	m := v.ours(b, false)
	ours := side{g: v.console(b, m), addr: m.Status().Address.Addr().String()}
	theirs := side{addr: "10.77.0.200", other: m.Status().WorkerPID}
	theirs.alone(b, func() float64 {
		t := v.theirs(b, v.tap(b))
		theirs.g, ours.other = t.g, t.cmd.Process.Pid
		return 0
	})()
	counted := func(what ...string) func(*testing.B) {
		return func(b *testing.B) {
			measure := func(s side) func() float64 {
				return s.alone(b, func() float64 { return rate(b, command(b, s.g, what...)) })
			}
			compare(b, "bhyve", "ops/s", measure(ours), measure(theirs))
		}
	}
	// A register of the serial port that nothing else uses: each read goes to
	// the process and back.
	const scratch = 0x3ff
	b.Run("exits", counted("port-reads", fmt.Sprint(scratch), seconds))
	for _, d := range blockModes {
		b.Run(fmt.Sprintf("%s-%dK-qd%d", d.mode, d.block>>10, d.depth),
			counted("disk-bench", "vtbd0", d.mode, fmt.Sprint(d.block), fmt.Sprint(d.depth), seconds))
	}
	for _, s := range []side{ours, theirs} {
		command(b, s.g, "net-up", "vtnet0", s.addr+"/24")
	}
	benchTCP(b, "bhyve", m.Status().Gateway.String(), 16*MiB, ours, theirs)
}

// tap is one on the machines' bridge, for the peer.
func (v *bhyveHost) tap(b *testing.B) string {
	b.Helper()
	ifconfig := func(args ...string) string {
		out, err := exec.Command("/sbin/ifconfig", args...).CombinedOutput()
		if err != nil {
			b.Fatalf("ifconfig %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	name := ifconfig("tap", "create")
	b.Cleanup(func() { ifconfig(name, "destroy") })
	ifconfig("skep0", "addm", name, "up")
	ifconfig(name, "up")
	return name
}
