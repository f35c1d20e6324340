// SPDX-License-Identifier: BSD-2-Clause

package guestinit

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

var systemCommands = map[string]handler{
	"ping":    {0, func(context.Context, *guest, []string) (string, error) { return "pong", nil }},
	"cpus":    {0, cpus},
	"memory":  {0, memory},
	"uptime":  {0, uptime},
	"cmdline": {0, func(context.Context, *guest, []string) (string, error) { return readTrimmed("/proc/cmdline") }},
	"time": {0, func(context.Context, *guest, []string) (string, error) {
		return strconv.FormatInt(time.Now().UnixNano(), 10), nil
	}},
	"clock":        {0, clock},
	"sleep":        {1, sleep},
	"cat":          {1, func(_ context.Context, _ *guest, a []string) (string, error) { return readTrimmed(a[0]) }},
	"write":        {2, writeText},
	"load":         {2, load},
	"rng":          {1, rng},
	"vport":        {2, vportWrite},
	"vport-read":   {1, vportRead},
	"reboot":       {0, reboot(unix.LINUX_REBOOT_CMD_RESTART)},
	"poweroff":     {0, reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)},
	"halt":         {0, reboot(unix.LINUX_REBOOT_CMD_HALT)},
	"crash":        {0, crash},
	"triple-fault": {0, tripleFault},
}

func readTrimmed(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}

func cpus(context.Context, *guest, []string) (string, error) {
	list, err := readTrimmed("/sys/devices/system/cpu/online")
	if err != nil {
		return "", err
	}
	n := 0
	for _, r := range strings.Split(list, ",") {
		low, high, isRange := strings.Cut(r, "-")
		a, err := strconv.Atoi(low)
		b := a
		if err == nil && isRange {
			b, err = strconv.Atoi(high)
		}
		if err != nil {
			return "", fmt.Errorf("online processors %q: %w", list, err)
		}
		n += b - a + 1
	}
	return strconv.Itoa(n), nil
}

func memory(context.Context, *guest, []string) (string, error) {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return "", err
	}
	return strconv.FormatUint(si.Totalram*uint64(si.Unit), 10), nil
}

func uptime(context.Context, *guest, []string) (string, error) {
	s, err := readTrimmed("/proc/uptime")
	s, _, _ = strings.Cut(s, " ")
	return s, err
}

func clock(context.Context, *guest, []string) (string, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return "", err
	}
	return strconv.FormatInt(ts.Nano(), 10), nil
}

func sleep(_ context.Context, _ *guest, a []string) (string, error) {
	d, err := time.ParseDuration(a[0])
	if err != nil {
		return "", err
	}
	time.Sleep(d)
	return "", nil
}

func writeText(_ context.Context, _ *guest, a []string) (string, error) {
	text := strings.ReplaceAll(strings.Join(a[1:], " "), `\n`, "\n")
	return "", os.WriteFile(a[0], []byte(text), 0o644)
}

func load(_ context.Context, _ *guest, a []string) (string, error) {
	seconds, err1 := strconv.ParseFloat(a[0], 64)
	n, err2 := strconv.Atoi(a[1])
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	until := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), n+1))
	counts := make([]uint64, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			x := uint64(i + 1)
			for time.Now().Before(until) {
				for range 10000 {
					x = x*6364136223846793005 + 1442695040888963407
				}
				counts[i] += 10000 + x>>63
			}
		})
	}
	wg.Wait()
	total := uint64(0)
	for _, c := range counts {
		total += c
	}
	return strconv.FormatUint(total, 10), nil
}

func rng(_ context.Context, _ *guest, a []string) (string, error) {
	n, err := strconv.Atoi(a[0])
	if err != nil || n < 1 || n > 4096 {
		return "", fmt.Errorf("bad count %q", a[0])
	}
	f, err := os.Open("/dev/hwrng")
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, n)
	if _, err := io.ReadFull(f, buf); err != nil {
		return "", fmt.Errorf("read /dev/hwrng: %w", err)
	}
	return hex.EncodeToString(buf), nil
}

func vport(name string) (*os.File, error) {
	files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if s, err := readTrimmed(f); err == nil && s == name {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(f)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no virtio-serial port is named %q", name)
}

func vportWrite(_ context.Context, _ *guest, a []string) (string, error) {
	f, err := vport(a[0])
	if err != nil {
		return "", err
	}
	defer f.Close()
	_, err = f.WriteString(strings.Join(a[1:], " ") + "\n")
	return "", err
}

func vportRead(_ context.Context, _ *guest, a []string) (string, error) {
	f, err := vport(a[0])
	if err != nil {
		return "", err
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadString('\n')
	return strings.TrimSpace(line), err
}

func reboot(how int) func(context.Context, *guest, []string) (string, error) {
	return func(context.Context, *guest, []string) (string, error) {
		unix.Sync()
		return "", unix.Reboot(how)
	}
}

func crash(context.Context, *guest, []string) (string, error) {
	return "", os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
}

func tripleFault(context.Context, *guest, []string) (string, error) {
	if err := os.WriteFile("/sys/kernel/reboot/type", []byte("triple"), 0); err != nil {
		return "", err
	}
	return "", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// watchPowerButton reports the ACPI power button and powers off, unless the
// command line says skep.ignore-power.
func (g *guest) watchPowerButton() {
	files, _ := filepath.Glob("/dev/input/event*")
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		go func() {
			defer f.Close()
			const evKey, keyPower = 1, 116 // linux/input-event-codes.h
			var ev [24]byte                // struct input_event: 16 bytes of time, type, code, value
			for {
				if _, err := io.ReadFull(f, ev[:]); err != nil {
					return
				}
				typ, code := binary.LittleEndian.Uint16(ev[16:]), binary.LittleEndian.Uint16(ev[18:])
				if typ != evKey || code != keyPower || binary.LittleEndian.Uint32(ev[20:]) != 1 {
					continue
				}
				g.say("EVENT power-button")
				if _, ignore := g.params["skep.ignore-power"]; !ignore {
					unix.Sync()
					_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
				}
			}
		}()
	}
}
