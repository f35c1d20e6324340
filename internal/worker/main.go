// SPDX-License-Identifier: BSD-2-Clause

package worker

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/skepvm/skep/internal/worker/ctl"
)

// Arg is the argument after which a worker's ID follows; where it is the first
// of a program's, the program is a worker.
const Arg = "skep-worker"

// configFile is the descriptor that the configuration and the word to go come
// from; the named files follow.
const (
	configFile = 3
	firstFile  = 4
)

// Main is the worker's life. It answers the process's exit status.
func Main(build Build, log *slog.Logger) int {
	nameProcess(Arg)
	in := os.NewFile(configFile, "configuration")
	cfg, err := readConfig(in)
	if err != nil {
		log.Error("worker cannot begin", "error", err)
		return 2
	}
	log = log.With("machine", cfg.Name, "id", cfg.Machine)
	var word [1]byte
	if _, err := io.ReadFull(in, word[:]); err != nil || word[0] != goByte {
		return 0 // the daemon died or thought better of it
	}
	in.Close()

	e := life(cfg, build, log)
	log.Info("guest ended", "kind", e.Kind, "detail", e.Detail)
	if e.Kind == ctl.Failed {
		return 1
	}
	return 0
}

// life builds the guest, closes the sandbox, runs the guest and writes down why
// it ended.
func life(cfg Config, build Build, log *slog.Logger) (e ctl.Exit) {
	exit := cfg.File(FileExit)
	end := func(x ctl.Exit) ctl.Exit {
		x.Machine, x.Time = cfg.Machine, time.Now().UTC()
		x = x.Clip()
		if err := WriteExit(exit, x); err != nil {
			log.Error("cannot write the exit file", "error", err)
		}
		return x
	}
	fail := func(what string, err error) ctl.Exit {
		return end(ctl.Exit{Kind: ctl.Failed, Detail: fmt.Sprintf("%s: %v", what, err)})
	}
	lf := cfg.File(FileListen)
	l, err := net.FileListener(lf) // has a descriptor of its own
	lf.Close()
	if err != nil {
		return fail("control socket", err)
	}
	console := newConsole(cfg.File(FileLog), cfg.LogLimit)
	srv := newServer(cfg, console)
	guest, err := build(cfg, Env{
		Console: console,
		Changed: func(st ctl.State, resets int) { srv.set(ctl.Event{State: st, Resets: resets}) },
		Log:     log,
	})
	if err != nil {
		l.Close()
		return fail("build the machine", err)
	}
	defer guest.Close()
	srv.guest = guest

	sigs := make(chan os.Signal, 4)
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	signal.Notify(sigs, syscall.SIGTERM)
	if err := confine(cfg, guest, l); err != nil {
		l.Close()
		return fail("close the sandbox", err)
	}
	// What building took is given back: a worker should weigh little.
	debug.FreeOSMemory()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	srv.wg.Add(2)
	go srv.serve(l)
	go srv.terminate(ctx, sigs)
	srv.wg.Add(1)
	go func() { // ends with the console
		defer srv.wg.Done()
		io.Copy(guest.Input(), console)
	}()

	e = end(guest.Run(ctx))
	if e.Registers != "" {
		// Where whoever wonders why the guest is gone looks first.
		fmt.Fprintf(console, "\r\n[skep] the guest ended: %s: %s\r\n%s", e.Kind, e.Detail, strings.ReplaceAll(e.Registers, "\n", "\r\n"))
	}
	cancel()
	console.close()
	srv.set(ctl.Event{State: ctl.Ended, Resets: e.Resets, Exit: &e})
	srv.close(l)
	return e
}

// terminate answers SIGTERM, which the host's shutdown sends to every process:
// the first presses the power button, the second ends the guest.
func (s *server) terminate(ctx context.Context, sigs <-chan os.Signal) {
	defer s.wg.Done()
	for n := 0; ; n++ {
		select {
		case <-sigs:
		case <-ctx.Done():
			return
		}
		if n > 0 || s.guest.PowerButton(ctx) != nil {
			s.guest.Kill()
		}
	}
}
