// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && linux

package chipset_test

import (
	"context"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testguest"
	"github.com/skepvm/skep/vmm"
	"github.com/skepvm/skep/vmm/boot"
)

// TestLinuxGuest asks a Linux guest what it makes of the chipset and of the
// firmware's tables.
func TestLinuxGuest(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	start := time.Now()
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
	out, in := io.Pipe()
	m, err := vmm.New(vmm.Config{CPUs: 2, Memory: 256 * vmm.MiB, Serial: in, Boot: boot.Linux{
		Kernel: open(files.Kernel), Initrd: open(files.Initrd),
		Cmdline: testguest.Cmdline(testguest.Serial, "loglevel=7")}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	done := make(chan vmm.End, 1)
	go func() {
		end, err := m.Run(ctx)
		if err != nil {
			t.Error(err)
		}
		in.Close()
		done <- end
	}()
	g := testguest.NewClient(out, m.SerialInput())
	if err := g.Ready(ctx); err != nil {
		t.Fatalf("%v\n%s", err, g.Transcript())
	}
	do := func(command ...string) string {
		t.Helper()
		s, err := g.Do(ctx, command...)
		if err != nil {
			t.Errorf("%q: %v", command, err)
		}
		return s
	}

	log := g.Transcript()
	if os.Getenv("SKEP_VERBOSE") != "" {
		t.Log(log)
	}
	for _, bad := range []string{"ACPI Error", "ACPI BIOS", "ACPI Warning", "ACPI Exception", "Firmware Bug", "Firmware Warn",
		"No irq handler", "nobody cared", "MP-BIOS bug", "not connected to IO-APIC"} {
		if i := strings.Index(log, bad); i >= 0 {
			t.Errorf("the kernel complains: %s", strings.SplitN(log[i:], "\n", 2)[0])
		}
	}
	for _, want := range []string{"ACPI: Interpreter enabled", "ACPI: Using IOAPIC for interrupt routing", "i8042: PNP: No PS/2 controller found"} {
		if !strings.Contains(log, want) {
			t.Errorf("the kernel does not say %q", want)
		}
	}
	if got := do("cat", "/proc/tty/driver/serial"); !strings.Contains(got, "0: uart:16550A port:000003F8 irq:4") {
		t.Errorf("serial ports: %s", got)
	}
	for file, want := range map[string]string{"sys_vendor": "skep", "chassis_type": "1"} {
		if got := strings.TrimSuffix(do("cat", "/sys/class/dmi/id/"+file), `\n`); got != want {
			t.Errorf("DMI %s is %q, wanted %q", file, got, want)
		}
	}
	irqs := func(name string) (n int) {
		t.Helper()
		for _, l := range strings.Split(do("cat", "/proc/interrupts"), `\n`) {
			if !strings.Contains(l, name) {
				continue
			}
			for _, f := range strings.Fields(l)[1:3] {
				v, err := strconv.Atoi(f)
				if err != nil {
					t.Errorf("/proc/interrupts: %s", l)
				}
				n += v
			}
			return n
		}
		t.Errorf("/proc/interrupts lacks %s", name)
		return 0
	}

	// The clock: the time, and an alarm.
	since := do("cat", "/sys/class/rtc/rtc0/since_epoch")
	if unix, err := strconv.ParseInt(strings.TrimSuffix(since, `\n`), 10, 64); err != nil || time.Since(time.Unix(unix, 0)).Abs() > 3*time.Second {
		t.Errorf("the clock shows %s (%v), it is %d", since, err, time.Now().Unix())
	}
	before := irqs("rtc0")
	do("write", "/sys/class/rtc/rtc0/wakealarm", "+2")
	for irqs("rtc0") == before {
		select {
		case <-ctx.Done():
			t.Fatal("no alarm")
		case <-time.After(100 * time.Millisecond):
		}
	}

	if m := regexp.MustCompile(`ACPI: PM-Timer IO Port: (\S+)`).FindStringSubmatch(log); m == nil || m[1] != "0x408" {
		t.Errorf("PM timer: %q", m)
	}
	if err := g.Send("reboot"); err != nil {
		t.Fatal(err)
	}
	if err := g.Wait(ctx, "READY", 2); err != nil {
		t.Fatal(err)
	}
	t.Logf("up again after %v", time.Since(start).Round(time.Second))

	// The power button, upon which this guest powers off.
	// It may be pressed before anybody in the guest listens, as a real one.
	for pressed := 1; ; pressed++ {
		if err := m.PowerButton(ctx); err != nil {
			t.Fatal(err)
		}
		heard, stop := context.WithTimeout(ctx, 5*time.Second)
		err := g.Wait(heard, "power-button", 1)
		stop()
		if err == nil {
			break
		}
		if pressed == 10 {
			t.Fatal(err)
		}
	}
	select {
	case end := <-done:
		if end.Cause != vmm.PowerOff || end.Reboots != 1 {
			t.Errorf("ended %+v", end)
		}
	case <-ctx.Done():
		t.Fatal("does not end")
	}
}
