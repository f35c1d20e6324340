// SPDX-License-Identifier: BSD-2-Clause

package guestinit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/skepvm/skep/internal/testguest"
	"golang.org/x/sys/unix"
)

// Here tells whether this process is the init of a test guest.
func Here() bool {
	if os.Getpid() != 1 {
		return false
	}
	_, err := os.Stat(testguest.Marker)
	return err == nil
}

// guest is the running init.
type guest struct {
	mu      sync.Mutex // guards console's lines
	console *os.File
	params  map[string]string
}

// Main runs the guest. It does not return.
func Main() {
	fmt.Fprintf(os.Stderr, "\nguestinit: %v\n", run())
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// run is the guest's life; it returns why it cannot go on.
func run() error {
	for _, m := range [][3]string{{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"dev", "/dev", "devtmpfs"}} {
		if err := unix.Mount(m[0], m[1], m[2], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	g := &guest{params: map[string]string{}}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	for _, p := range strings.Fields(string(cmdline)) {
		name, value, _ := strings.Cut(p, "=")
		g.params[name] = value
	}
	device := "/dev/" + g.params["skep.console"]
	if g.params["skep.console"] == "" {
		device = "/dev/console"
	}
	// A serial console is there at once; one on virtio needs its module.
	if err := g.openConsole(device); err == nil {
		g.say("INIT")
	}
	if err := loadModules(); err != nil {
		return err
	}
	if g.console == nil {
		for range 200 {
			if err = g.openConsole(device); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			return err
		}
		g.say("INIT")
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	go g.watchPowerButton()
	if _, ok := g.params[testguest.CloudParam]; ok {
		if err := g.cloud(); err != nil {
			return fmt.Errorf("cloud: %w", err)
		}
	}
	g.say("READY")
	return g.serve()
}

func (g *guest) openConsole(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		f.Close()
		return fmt.Errorf("console %s: %w", path, err)
	}
	// Commands are not to be echoed; output keeps its CR LF for readers.
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Iflag &^= unix.IXON
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t); err != nil {
		f.Close()
		return fmt.Errorf("console %s: %w", path, err)
	}
	g.console = f
	return nil
}

// say prints one protocol line.
func (g *guest) say(format string, args ...any) {
	line := "@@ " + strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", `\n`) + "\n"
	g.mu.Lock()
	defer g.mu.Unlock()
	_, _ = g.console.WriteString(line)
}

// serve runs the commands that come in, side by side.
func (g *guest) serve() error {
	in := bufio.NewScanner(g.console)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		f := strings.Fields(in.Text())
		if len(f) < 2 {
			continue
		}
		go func() {
			result, err := g.command(f[1], f[2:])
			if err != nil {
				g.say("ERR %s %v", f[0], err)
				return
			}
			g.say("OK %s %s", f[0], result)
		}()
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("console: %w", err)
	}
	return errors.New("the console was closed")
}

// A handler runs one command.
type handler struct {
	args int // at least
	run  func(ctx context.Context, g *guest, args []string) (string, error)
}

func (g *guest) command(name string, args []string) (string, error) {
	for _, set := range []map[string]handler{systemCommands, diskCommands, netCommands} {
		if h, ok := set[name]; ok {
			if len(args) < h.args {
				return "", fmt.Errorf("%s takes %d arguments", name, h.args)
			}
			return h.run(context.Background(), g, args)
		}
	}
	return "", fmt.Errorf("unknown command %q", name)
}

func loadModules() error {
	list, err := os.ReadFile("/modules/list")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		content, err := os.ReadFile("/modules/" + name)
		if err != nil {
			return err
		}
		// A device that a module is for may be missing: not our affair.
		if err := unix.InitModule(content, ""); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}
