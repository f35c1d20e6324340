// SPDX-License-Identifier: BSD-2-Clause

//go:build linux

package client

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/skepvm/skep/cmd/skep-testbed/internal/wire"
	"golang.org/x/term"
)

// grace is what a program gets beyond its own time limit before it is ended
// from outside. Its own limit tells more, with every goroutine's stack.
const grace = time.Minute

// Options of a session.
type Options struct {
	Args  []string
	Keep  bool          // leave what the program started
	TTY   bool          // a terminal inside, raw mode here
	Limit time.Duration // 0: the program's own -test.timeout and a minute more
}

// forwarded are the signals that reach the program inside.
var forwarded = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

// Run runs the program over the stream and returns how it ended. An error
// means that the session failed, not the program.
func Run(stream net.Conn, opt Options) (wire.Exit, error) {
	none := wire.Exit{}
	dir, err := os.Getwd()
	if err != nil {
		return none, err
	}
	args := slices.Clone(opt.Args)
	if strings.Contains(args[0], "/") {
		args[0] = abs(dir, args[0])
	}
	env := guestEnv(os.Environ())
	p := &plan{}
	if !opt.TTY {
		if p, err = planFor(dir, args, env); err != nil {
			return none, err
		}
		if strings.Contains(args[0], "/") {
			if _, err := os.Stat(args[0]); err != nil { // then it is one of the testbed's own
				p.send = p.send[1:]
			}
		}
	} else {
		dir = "/root"
	}
	conn := wire.NewConn(stream)
	defer conn.Close()
	req := wire.Request{
		Op: wire.OpRun, Args: args, Env: env, Dir: dir,
		Files: p.files, Dirs: p.dirs, ReturnDir: p.wholeDir, TTY: opt.TTY,
		Keep: opt.Keep,
	}
	if opt.TTY {
		if cols, rows, err := term.GetSize(int(os.Stdin.Fd())); err == nil {
			req.Rows, req.Cols = uint16(rows), uint16(cols)
		}
	}
	signals := make(chan os.Signal, 16)
	if !opt.TTY {
		signal.Notify(signals, forwarded...)
		defer signal.Stop(signals)
	}
	if err := conn.WriteJSON(wire.KindRequest, req); err != nil {
		return none, fmt.Errorf("send the request: %w", err)
	}

	type result struct {
		exit wire.Exit
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		exit, err := receive(conn, p, dir)
		ended <- result{exit, err}
	}()
	sent := make(chan error, 1)
	go func() {
		w := bufio.NewWriterSize(conn.Writer(wire.KindFiles), wire.MaxFrame)
		err := sendFiles(w, p.send)
		if err == nil {
			err = w.Flush()
		}
		if err == nil {
			err = conn.Write(wire.KindStart, nil)
		}
		sent <- err
	}()
	limit := opt.Limit
	if limit == 0 {
		limit = testLimit(args)
	}
	var timer <-chan time.Time
	for {
		select {
		case r := <-ended:
			return r.exit, r.err
		case err := <-sent:
			if err != nil {
				// The agent may have said why; else the error itself.
				select {
				case r := <-ended:
					if r.exit.Error != "" {
						return r.exit, nil
					}
				case <-time.After(time.Second):
				}
				return none, err
			}
			if limit > 0 {
				timer = time.After(limit)
			}
			go sendInput(conn)
		case s := <-signals:
			_ = conn.WriteJSON(wire.KindSignal, wire.Signal{Name: wire.SignalName(s.(syscall.Signal))})
		case <-timer:
			return none, fmt.Errorf("%s still ran after %s: ended", filepath.Base(args[0]), limit)
		}
	}
}

// receive handles frames until the exit.
func receive(conn *wire.Conn, p *plan, dir string) (wire.Exit, error) {
	var back *io.PipeWriter
	var backDone chan error
	for {
		kind, body, err := conn.Read()
		if err != nil {
			return wire.Exit{}, fmt.Errorf("the testbed is gone: %w", err)
		}
		switch kind {
		case wire.KindStdout:
			_, _ = os.Stdout.Write(body)
		case wire.KindStderr:
			_, _ = os.Stderr.Write(body)
		case wire.KindReturn:
			if back == nil {
				var r *io.PipeReader
				r, back = io.Pipe()
				backDone = make(chan error, 1)
				go func() {
					err := p.takeBack(r, dir)
					r.CloseWithError(errOr(err, io.ErrClosedPipe))
					backDone <- err
				}()
			}
			_, _ = back.Write(body) // an error shows at the end
		case wire.KindExit:
			var exit wire.Exit
			if err := json.Unmarshal(body, &exit); err != nil {
				return exit, fmt.Errorf("exit from the testbed: %w", err)
			}
			if back != nil {
				back.Close()
				if err := <-backDone; err != nil {
					return exit, err
				}
			}
			return exit, nil
		}
	}
}

func sendInput(conn *wire.Conn) {
	p := make([]byte, 32<<10)
	for {
		n, err := os.Stdin.Read(p)
		if n > 0 {
			if conn.Write(wire.KindStdin, p[:n]) != nil {
				return
			}
		}
		if err != nil {
			_ = conn.Write(wire.KindStdinEOF, nil)
			return
		}
	}
}

// testLimit is the test binary's own limit and some grace.
func testLimit(args []string) time.Duration {
	d, err := time.ParseDuration(testFlags(args[1:])["timeout"])
	if err != nil || d <= 0 {
		return 0
	}
	return d + grace
}

// procs is the GOMAXPROCS of programs inside, unless it is said: those of a host
// of some processors, as package vmm advises for a machine's process.
const procs = "8"

// guestEnv is the environment inside: the one here, but for what describes
// this machine.
func guestEnv(env []string) []string {
	const system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	out := []string{"GOMAXPROCS=" + procs, "HOME=/root", "SKEP_IN_TESTBED=1"}
	path := "PATH=" + system
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		switch name {
		case "HOME", "TMPDIR", "SKEP_IN_TESTBED", FilesEnv:
		case "PATH":
			path = "PATH=" + value + ":" + system
		default:
			out = append(out, kv)
		}
	}
	return append(out, path)
}

// Leave ends this process as the program inside ended.
func Leave(exit wire.Exit) {
	if exit.Error != "" {
		fmt.Fprintf(os.Stderr, "skep-testbed: %s\n", exit.Error)
		if exit.Code == 0 {
			exit.Code = 126
		}
	}
	// To a signal of a fault Go's runtime would answer with this process's stacks.
	faults := []syscall.Signal{syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGABRT, syscall.SIGQUIT, syscall.SIGSYS}
	if s, ok := wire.SignalNamed(exit.Signal); ok && !slices.Contains(faults, s) {
		_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
		signal.Reset(s)
		if err := syscall.Kill(os.Getpid(), s); err == nil {
			time.Sleep(time.Second)
		}
	}
	os.Exit(exit.Code)
}

// Shell runs a shell with a terminal.
func Shell(stream net.Conn, args []string) (wire.Exit, error) {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return wire.Exit{}, errors.New("shell needs a terminal; use exec for a command")
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return wire.Exit{}, err
	}
	defer term.Restore(fd, old)
	return Run(stream, Options{Args: args, TTY: true})
}
