// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/skepvm/skep/cmd/skep-testbed/internal/agent"
	"github.com/skepvm/skep/cmd/skep-testbed/internal/bed"
	"github.com/skepvm/skep/cmd/skep-testbed/internal/build"
	"github.com/skepvm/skep/cmd/skep-testbed/internal/client"
	"github.com/skepvm/skep/cmd/skep-testbed/internal/report"
	"github.com/skepvm/skep/cmd/skep-testbed/internal/wire"
	"github.com/skepvm/skep/internal/guestinit"
)

func main() {
	if guestinit.Here() {
		guestinit.Main()
	}
	if mode := agent.ModeOf(os.Getpid(), os.Args); mode != agent.None {
		agent.Main(mode)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "skep-testbed: %v\n", err)
		os.Exit(125)
	}
}

const usage = "usage: skep-testbed up|exec|shell|down|status|build|guest|images|has|report [options] [program arguments...] (go doc ./cmd/skep-testbed tells more)"

func run(args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	if args[0] == "report" {
		return reportTests(args[1:])
	}
	var spec bed.Spec
	var limit time.Duration
	var foreground, all, keep bool
	fs := flag.NewFlagSet("skep-testbed "+args[0], flag.ContinueOnError)
	fs.StringVar(&spec.Name, "name", "", "the testbed's `name`, default $SKEP_TESTBED or \"default\"")
	fs.StringVar(&spec.OS, "os", "", "linux or freebsd")
	fs.StringVar(&spec.ZFS, "zfs", "", "OpenZFS `version` on Linux: 2.1, 2.3 or none, default $SKEP_ZFS")
	fs.IntVar(&spec.CPUs, "cpus", 0, "processors, default $SKEP_TESTBED_CPUS, or 1 in emulation and 2 on a true KVM")
	fs.IntVar(&spec.MemoryMB, "memory", 0, "`MiB` of memory, default $SKEP_TESTBED_MEMORY or 4096")
	fs.DurationVar(&limit, "limit", 0, "end the program after this time")
	fs.BoolVar(&foreground, "foreground", false, "up: stay, until a signal comes")
	fs.BoolVar(&keep, "keep", false, "exec: leave the processes that the program started")
	fs.BoolVar(&all, "all", false, "down: every testbed of yours")
	if err := fs.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if spec.OS == "" && os.Getenv("GOOS") == "freebsd" {
		spec.OS = "freebsd"
	}
	cache, err := build.OpenCache(os.Stderr)
	if err != nil {
		return err
	}
	switch args[0] {
	case "up":
		return up(cache, spec, foreground)
	case "exec":
		if fs.NArg() == 0 {
			return errors.New("exec: which program?")
		}
		return session(cache, spec, func(c net.Conn) (wire.Exit, error) {
			return client.Run(c, client.Options{Args: fs.Args(), Limit: limit, Keep: keep})
		})
	case "shell":
		shell := fs.Args()
		if len(shell) == 0 {
			shell = []string{"bash", "-l"}
			if spec.OS == "freebsd" {
				shell = []string{"sh"} // all that an image has for certain
			}
		}
		return session(cache, spec, func(c net.Conn) (wire.Exit, error) { return client.Shell(c, shell) })
	case "down":
		return down(cache, spec, all)
	case "status":
		return status(cache)
	case "build":
		return buildAll(cache)
	case "images":
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		dir, err := cache.Catalogue(ctx)
		if err == nil {
			fmt.Println(dir)
		}
		return err
	case "guest":
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		agent, err := cache.Agent(ctx, "linux")
		if err != nil {
			return err
		}
		disk, err := cache.Guest(ctx, agent)
		if err == nil {
			fmt.Println(filepath.Dir(disk))
		}
		return err
	case "has":
		return has(cache, spec)
	case superviseArg:
		return supervise(cache, spec)
	}
	return fmt.Errorf("unknown command %q; %s", args[0], usage)
}

// session runs f over a stream to the testbed that is up, or to one of its
// own that it boots and ends.
func session(cache *build.Cache, spec bed.Spec, f func(net.Conn) (wire.Exit, error)) error {
	conn, err := bed.Dial(cache, spec)
	var own *bed.Bed
	if errors.Is(err, bed.ErrNotUp) {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		own, err = bed.Boot(ctx, cache, spec)
		stop()
		if err == nil {
			defer own.Close()
			conn = own.Session()
		}
	}
	if err != nil {
		return err
	}
	exit, err := f(conn)
	if own != nil {
		if err != nil {
			select {
			case <-own.Done():
				err = fmt.Errorf("%w: %w", err, own.Err())
			case <-time.After(time.Second):
			}
		}
		own.Close()
	}
	if err != nil {
		return err
	}
	client.Leave(exit)
	return nil
}

const superviseArg = "supervise"

// up starts a supervisor that outlives this process, or is one itself.
func up(cache *build.Cache, spec bed.Spec, foreground bool) error {
	if err := spec.Complete(); err != nil {
		return err
	}
	if spec.ZFS == "" {
		spec.ZFS = "none"
	}
	if _, err := bed.Ask(cache, spec, wire.OpStatus); err == nil {
		cache.Say("%s is up already", spec.Name)
		return nil
	}
	if foreground {
		return supervise(cache, spec)
	}
	begin := time.Now()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", superviseArg, "-name", spec.Name, "-os", spec.OS, "-zfs", spec.ZFS,
		"-cpus", fmt.Sprint(spec.CPUs), "-memory", fmt.Sprint(spec.MemoryMB))
	cmd.Dir, _ = os.Getwd()
	cmd.ExtraFiles = []*os.File{w}
	cmd.Env = append(os.Environ(), readyEnv+"=3")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// Until it is ready a Ctrl-C here ends it too.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	runtime.LockOSThread()
	if err := cmd.Start(); err != nil {
		return err
	}
	w.Close()
	interrupted := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	var b [1]byte
	if n, _ := r.Read(b[:]); n == 1 {
		interrupted()
		cache.Say("%s (%s, OpenZFS %s) is up after %s", spec.Name, spec.OS, spec.ZFS, time.Since(begin).Round(100*time.Millisecond))
		return nil
	}
	_ = cmd.Wait()
	return errors.New("up: it did not start (see above)")
}

const readyEnv = "SKEP_TESTBED_READY_FD"

func supervise(cache *build.Cache, spec bed.Spec) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	b, err := bed.Boot(ctx, cache, spec)
	if err != nil {
		return err
	}
	defer b.Close()
	return b.Share(ctx, cache, func() {
		if os.Getenv(readyEnv) != "3" {
			cache.Say("%s is up", b.Spec.Name)
			return
		}
		f := os.NewFile(3, "ready")
		_, _ = f.Write([]byte{1})
		f.Close()
		// Whoever waits for the end of our output must not wait for ours.
		if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
			for fd := range 3 {
				_ = syscall.Dup3(int(null.Fd()), fd, 0)
			}
			null.Close()
		}
	})
}

func down(cache *build.Cache, spec bed.Spec, all bool) error {
	if err := spec.Complete(); err != nil {
		return err
	}
	running, err := bed.Running(cache)
	if err != nil {
		return err
	}
	n := 0
	for _, r := range running {
		if !all && (r.Name != spec.Name || r.OS != spec.OS || spec.ZFS != "" && r.ZFS != spec.ZFS) {
			continue
		}
		if _, err := bed.Ask(cache, r, wire.OpDown); err != nil && !errors.Is(err, bed.ErrNotUp) {
			return err
		}
		cache.Say("%s (%s, OpenZFS %s) is down", r.Name, r.OS, r.ZFS)
		n++
	}
	if n == 0 {
		cache.Say("nothing is up")
	}
	return nil
}

func status(cache *build.Cache) error {
	running, err := bed.Running(cache)
	if err != nil {
		return err
	}
	for _, r := range running {
		st, err := bed.Ask(cache, r, wire.OpStatus)
		if err != nil {
			continue
		}
		fmt.Printf("%s\t%s\tOpenZFS %s\tprocess %d\t%d sessions\t%s\n", st.Name, st.OS, st.ZFS, st.PID, st.Sessions, st.Kernel)
	}
	if len(running) == 0 {
		fmt.Println("nothing is up")
	}
	return nil
}

// has tells whether a testbed of that system can be had; if not it says so in a
// line that cannot be missed.
func has(cache *build.Cache, spec bed.Spec) error {
	if err := spec.Complete(); err != nil {
		return err
	}
	if spec.OS == "freebsd" {
		if err := cache.HasFreeBSD(); err != nil {
			return fmt.Errorf("*** NOTHING RAN ON FREEBSD: %w ***", err)
		}
	}
	return nil
}

// reportTests reads go test -json from standard input.
func reportTests(args []string) error {
	fs := flag.NewFlagSet("skep-testbed report", flag.ContinueOnError)
	title := fs.String("title", "test", "what is shown before each package")
	path := fs.String("totals", "", "the `file` that keeps totals over several runs")
	failed := fs.Bool("failed", false, "count a failure instead of reading")
	again := fs.String("again", "", "write what failed and may run once more to `file`, and do not count it")
	summary := fs.Bool("summary", false, "print the totals instead of reading; fail if anything did")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var totals report.Totals
	switch {
	case *summary:
		totals, err := report.Load(*path)
		if err != nil {
			return err
		}
		if totals.Passed == 0 {
			totals.Fail("no test ran")
		}
		totals.Summary(os.Stdout)
		if totals.Failed > 0 {
			os.Exit(1)
		}
		return nil
	case *failed:
		totals.Fail(*title)
	default:
		if err := totals.Run(os.Stdin, os.Stdout, *title); err != nil {
			return err
		}
	}
	if *again != "" {
		tests := totals.Again()
		if err := os.WriteFile(*again, []byte(strings.Join(tests, "\n")), 0o600); err != nil {
			return err
		}
	}
	if err := totals.AddTo(*path); err != nil {
		return err
	}
	if totals.Failed > 0 && !*failed {
		os.Exit(1)
	}
	return nil
}

func buildAll(cache *build.Cache) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	host, err := cache.Host(ctx)
	if err != nil {
		return err
	}
	if _, err := cache.ImagesDisk(ctx); err != nil {
		return err
	}
	for _, v := range bed.ZFSVersions {
		if v == "none" {
			continue
		}
		if _, err := cache.ZFS(ctx, host, v); err != nil {
			return err
		}
	}
	agent, err := cache.Agent(ctx, "linux")
	if err != nil {
		return err
	}
	_, err = cache.Guest(ctx, agent)
	return err
}
