// SPDX-License-Identifier: BSD-2-Clause

package worker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
)

// Process is a worker that this process started. It waits for the word to go.
type Process struct {
	PID  int
	word *os.File
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Command says how a worker is started.
type Command struct {
	Argv []string // the program and its leading arguments; Arg and the ID are added
	Env  []string // beside what bounds the runtime's memory
	Log  *os.File // standard error: panics and diagnostics
	// Group is the control group that it is born in, if not nil. Linux only.
	Group *os.File
}

// Spawn starts a worker in a session of its own with the given files, which
// stay the caller's to close. ctx is not the worker's: it lives until its guest
// ends.
func Spawn(c Command, cfg Config, files map[string]*os.File) (*Process, error) {
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	cfg.Files = map[string]int{}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	defer r.Close()
	extra := []*os.File{r}
	for i, n := range names {
		cfg.Files[n] = firstFile + i
		extra = append(extra, files[n])
	}
	b, err := json.Marshal(cfg)
	if err == nil && len(b) > maxConfig {
		err = fmt.Errorf("configuration of %d bytes is longer than %d", len(b), maxConfig)
	}
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("start worker: %w", err)
	}
	cmd := exec.Command(c.Argv[0], append(slices.Clone(c.Argv[1:]), Arg, cfg.Machine)...)
	cmd.Env = append([]string{
		"GOMAXPROCS=" + strconv.Itoa(cfg.CPUs+2),
		"GOGC=50",
		"GOMEMLIMIT=32MiB",
	}, c.Env...)
	cmd.Dir = "/"
	cmd.Stderr = c.Log
	cmd.ExtraFiles = extra
	cmd.SysProcAttr = sysProcAttr(cfg, c.Group)
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start worker: %w", err)
	}
	r.Close() // so that a worker that dies at once is seen by the write below
	p := &Process{PID: cmd.Process.Pid, word: w, cmd: cmd, done: make(chan struct{})}
	go func() { // ends with the worker
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	// The write end is the daemon's alone: should it die, the worker sees it.
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
	if _, err := w.Write(frame); err != nil {
		p.Abandon()
		return nil, fmt.Errorf("start worker: hand it its configuration: %w", err)
	}
	return p, nil
}

// Go lets the worker begin.
func (p *Process) Go() error {
	_, err := p.word.Write([]byte{goByte})
	if cerr := p.word.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("let the worker go: %w", err)
	}
	return nil
}

// Abandon ends a worker that was not let go, and waits for its end.
func (p *Process) Abandon() {
	p.word.Close()
	p.cmd.Process.Kill()
	<-p.done
}

// Kill ends the worker's process at once. It does not wait.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Done is closed when the worker has ended and was waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the process ended, once Done is closed.
func (p *Process) Err() error { return p.err }

// Listen makes the control socket of a worker, mode 0600, in place of one that
// a dead worker left.
func Listen(ctx context.Context, path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer l.Close()
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false)
	f, err := ul.File()
	if err == nil {
		err = os.Chmod(path, 0o600)
		if err != nil {
			f.Close()
		}
	}
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return f, nil
}
