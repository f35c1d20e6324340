// SPDX-License-Identifier: BSD-2-Clause

package agent

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/creack/pty"
	"github.com/skepvm/skep/cmd/skep-testbed/internal/wire"
	"golang.org/x/sys/unix"
)

// maxReturned bounds one file that is sent back.
const maxReturned = 1 << 30

func parseRequest(body []byte) (*wire.Request, error) {
	req := new(wire.Request)
	if err := json.Unmarshal(body, req); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if req.Op == wire.OpRun && (len(req.Args) == 0 || !filepath.IsAbs(req.Dir)) {
		return nil, fmt.Errorf("request: no arguments or directory %q is not absolute", req.Dir)
	}
	return req, nil
}

func hello() wire.Status {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	return wire.Status{Kernel: unix.ByteSliceToString(uts.Sysname[:]) + " " + unix.ByteSliceToString(uts.Release[:])}
}

// run is one session: files in, process, files out.
func (s *server) run(conn *wire.Conn, req *wire.Request) {
	box, err := s.newSandbox(s.nextID(), filepath.Clean(req.Dir))
	if err != nil {
		_ = conn.WriteJSON(wire.KindExit, wire.Exit{Error: err.Error(), Code: 126})
		return
	}
	exit := s.runIn(conn, box, req)
	if !req.Keep {
		box.remove()
	}
	_ = conn.WriteJSON(wire.KindExit, exit)
	// The other end closes first, when it has read all.
	if box.gone != nil {
		<-box.gone
	}
}

func (s *server) runIn(conn *wire.Conn, box *sandbox, req *wire.Request) wire.Exit {
	failed := func(err error) wire.Exit { return wire.Exit{Error: err.Error(), Code: 126} }
	if err := receive(conn, box); err != nil {
		return failed(err)
	}
	for _, d := range append(req.Dirs, parents(req.Files)...) {
		if err := os.MkdirAll(box.path(d), 0o755); err != nil {
			return failed(err)
		}
	}
	watched := req.Dirs
	if req.ReturnDir && box.owned {
		watched = append(watched, box.dir)
	}
	before := map[string]fileState{}
	for _, d := range watched {
		scan(box, d, func(path string, st fs.FileInfo) { before[path] = stateOf(st) })
	}

	exit := runProcess(conn, box, req)

	tw := tar.NewWriter(conn.Writer(wire.KindReturn))
	sent := map[string]bool{}
	give := func(path string) {
		if sent[path] {
			return
		}
		sent[path] = true
		if err := giveBack(tw, box.path(path), path); err != nil {
			logf("give %s back: %v", path, err)
		}
	}
	for _, f := range req.Files {
		if st, err := os.Stat(box.path(f)); err == nil && st.Mode().IsRegular() {
			give(f)
		}
	}
	for _, d := range watched {
		scan(box, d, func(path string, st fs.FileInfo) {
			if old, ok := before[path]; !ok || old != stateOf(st) {
				give(path)
			}
		})
	}
	_ = tw.Close()
	return exit
}

func parents(files []string) []string {
	var out []string
	for _, f := range files {
		out = append(out, filepath.Dir(f))
	}
	return out
}

type fileState struct{ size, time int64 }

func stateOf(st fs.FileInfo) fileState { return fileState{st.Size(), st.ModTime().UnixNano()} }

// scan calls f for the regular files below dir, which is a path as the
// session sees it.
func scan(box *sandbox, dir string, f func(path string, st fs.FileInfo)) {
	real := box.path(dir)
	_ = filepath.WalkDir(real, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), arriving) {
			return nil
		}
		if st, err := d.Info(); err == nil {
			f(filepath.Join(dir, strings.TrimPrefix(p, real)), st)
		}
		return nil
	})
}

func giveBack(tw *tar.Writer, real, path string) error {
	f, err := os.Open(real)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() > maxReturned {
		return fmt.Errorf("%d bytes are too many", st.Size())
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: int64(st.Mode().Perm()), Size: st.Size(), ModTime: st.ModTime()}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyN(tw, f, st.Size())
	if err == io.EOF { // it shrank meanwhile: keep the stream whole
		_, err = io.CopyN(tw, zeros{}, st.Size()-n)
	}
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// receive takes the tar stream that precedes the start.
func receive(conn *wire.Conn, box *sandbox) error {
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := unpack(pr, box)
		if err == nil {
			_, err = io.Copy(io.Discard, pr)
		}
		pr.CloseWithError(err)
		done <- err
	}()
	for {
		kind, body, err := conn.Read()
		if err != nil {
			pw.CloseWithError(err)
			<-done
			return err
		}
		switch kind {
		case wire.KindFiles:
			if _, err := pw.Write(body); err != nil {
				<-done
				return fmt.Errorf("receive files: %w", err)
			}
		case wire.KindMailbox:
			if err := fromMailbox(pw, body); err != nil {
				pw.CloseWithError(err)
				<-done
				return fmt.Errorf("receive files: %w", err)
			}
		case wire.KindStart:
			pw.Close()
			if err := <-done; err != nil {
				return fmt.Errorf("receive files: %w", err)
			}
			return nil
		default:
			pw.CloseWithError(errors.New("out of order"))
			<-done
			return fmt.Errorf("frame %q before the start", kind)
		}
	}
}

// fromMailbox copies a part of the mailbox disk. Disks are read by whole
// sectors.
func fromMailbox(w io.Writer, body []byte) error {
	var m wire.Mailbox
	if err := json.Unmarshal(body, &m); err != nil {
		return err
	}
	var f *os.File
	err := errors.New("there is no mailbox here")
	for _, name := range mailboxes {
		if f, err = os.Open(name); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for m.Length > 0 {
		n := min(m.Length, int64(len(buf)))
		if _, err := f.ReadAt(buf[:(n+4095)&^4095], m.Offset); err != nil {
			return fmt.Errorf("read the mailbox: %w", err)
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		m.Offset += n
		m.Length -= n
	}
	return nil
}

func unpack(r io.Reader, box *sandbox) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		path := box.path(filepath.Clean("/" + h.Name))
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(path, h.FileInfo().Mode().Perm()|0o700); err != nil {
				return err
			}
			continue
		}
		if box.server.own(path) {
			continue // as when it was asked for /bin/sh
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		box.comes(path)
		if err := place(path, h, tr); err != nil {
			return err
		}
	}
}

// arriving begins the names of files that are not whole yet.
const arriving = ".skep-testbed-arriving-"

// place puts a file or symbolic link where it belongs, whole or not at all: another
// session may be sending the same, or running it.
func place(path string, h *tar.Header, r io.Reader) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), arriving)
	if err != nil {
		return err
	}
	name := temp.Name()
	defer func() {
		if err != nil {
			_ = os.Remove(name)
		}
	}()
	_, err = io.Copy(temp, r)
	err = errors.Join(err, temp.Chmod(h.FileInfo().Mode().Perm()), temp.Close())
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		err = os.Chtimes(name, h.ModTime, h.ModTime)
	case tar.TypeSymlink:
		if err = os.Remove(name); err == nil {
			err = os.Symlink(h.Linkname, name)
		}
	default:
		err = fmt.Errorf("%s is of type %q", path, h.Typeflag)
	}
	if err != nil {
		return err
	}
	return os.Rename(name, path)
}

// runProcess starts the process, passes everything on until it ends and ends
// what it left.
func runProcess(conn *wire.Conn, box *sandbox, req *wire.Request) wire.Exit {
	path := req.Args[0]
	if !strings.Contains(path, "/") {
		found, err := exec.LookPath(path)
		if err != nil {
			return wire.Exit{Error: fmt.Sprintf("in the testbed: %v", err), Code: 127}
		}
		path = found
	}
	st, err := wireStdio(conn, req)
	if err != nil {
		return wire.Exit{Error: err.Error(), Code: 126}
	}
	var cmd *exec.Cmd
	for try := 0; ; try++ {
		cmd = &exec.Cmd{Path: path, Args: req.Args, Env: req.Env, Dir: box.dir}
		st.attach(cmd)
		err = box.start(cmd)
		// A process that another session has just forked may, until it is
		// another program, hold the binary open as we wrote it.
		if !errors.Is(err, syscall.ETXTBSY) || try == 100 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		st.abort()
		return wire.Exit{Error: fmt.Sprintf("in the testbed: start %s: %v", req.Args[0], err), Code: 126}
	}
	st.started()
	var ended atomic.Bool
	box.gone = make(chan struct{})
	go func() {
		defer close(box.gone)
		st.input(conn, cmd.Process.Pid)
		if !req.Keep || !ended.Load() {
			box.kill() // the other end is gone
		}
	}()
	err = cmd.Wait()
	ended.Store(true)
	if req.Keep {
		st.leave()
	} else {
		box.kill()
	}
	st.drain()
	var exitErr *exec.ExitError
	switch {
	case err == nil:
		return wire.Exit{}
	case errors.As(err, &exitErr):
		ws, _ := exitErr.Sys().(syscall.WaitStatus)
		if ws.Signaled() {
			return wire.Exit{Code: 128 + int(ws.Signal()), Signal: wire.SignalName(ws.Signal())}
		}
		return wire.Exit{Code: exitErr.ExitCode()}
	}
	return wire.Exit{Error: err.Error(), Code: 126}
}

// stdio joins a process's standard files to the frames of a session.
type stdio struct {
	stdin  *os.File   // our end
	ours   []*os.File // that we read from
	kinds  []wire.Kind
	theirs []*os.File
	conn   *wire.Conn
	tty    bool
	wg     sync.WaitGroup
}

func wireStdio(conn *wire.Conn, req *wire.Request) (*stdio, error) {
	st := &stdio{conn: conn, tty: req.TTY}
	if req.TTY {
		master, slave, err := pty.Open()
		if err != nil {
			return nil, fmt.Errorf("open a terminal: %w", err)
		}
		_ = pty.Setsize(master, &pty.Winsize{Rows: req.Rows, Cols: req.Cols})
		st.stdin, st.ours, st.theirs = master, []*os.File{master}, []*os.File{slave, slave, slave}
		st.kinds = []wire.Kind{wire.KindStdout}
		return st, nil
	}
	var err error
	pipe := func() (r, w *os.File) {
		if err == nil {
			if r, w, err = os.Pipe(); err == nil {
				return r, w
			}
		}
		return nil, nil
	}
	inR, inW := pipe()
	outR, outW := pipe()
	errR, errW := pipe()
	if err != nil {
		return nil, err
	}
	st.stdin, st.ours, st.theirs = inW, []*os.File{outR, errR}, []*os.File{inR, outW, errW}
	st.kinds = []wire.Kind{wire.KindStdout, wire.KindStderr}
	return st, nil
}

// attach gives a command its ends, and a process group or a terminal.
func (st *stdio) attach(cmd *exec.Cmd) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = st.theirs[0], st.theirs[1], st.theirs[2]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if st.tty {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	}
}

func (st *stdio) started() {
	for _, f := range st.theirs {
		f.Close()
	}
	for i, f := range st.ours {
		st.wg.Add(1)
		go func() {
			defer st.wg.Done()
			// If the command outside is gone nobody reads: go on emptying the
			// pipe, so that the process sees no difference until it is killed.
			_, _ = io.CopyBuffer(lossy{st.conn.Writer(st.kinds[i])}, onlyReader{f}, make([]byte, 32<<10))
		}()
	}
}

type onlyReader struct{ io.Reader }

type lossy struct{ w io.Writer }

func (l lossy) Write(p []byte) (int, error) { _, _ = l.w.Write(p); return len(p), nil }

func (st *stdio) abort() {
	for _, f := range append(st.theirs, append(st.ours, st.stdin)...) {
		f.Close()
	}
}

// leave stops listening soon: what the program left may hold its output open
// for ever.
func (st *stdio) leave() {
	for _, f := range st.ours {
		_ = f.SetReadDeadline(time.Now().Add(time.Second))
	}
}

// drain waits until all output has been passed on. Every writer is dead.
func (st *stdio) drain() {
	st.wg.Wait()
	for _, f := range append(st.ours, st.stdin) {
		f.Close()
	}
}

// input passes frames on until the other end closes.
func (st *stdio) input(conn *wire.Conn, pid int) {
	// A process that does not read its input must still get signals.
	queue := make(chan []byte, 1024)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for p := range queue {
			_, _ = st.stdin.Write(p)
		}
		if !st.tty {
			st.stdin.Close()
		}
	}()
	open := true
	defer func() {
		if open {
			close(queue)
		}
		<-done
	}()
	for {
		kind, body, err := conn.Read()
		if err != nil {
			return
		}
		switch kind {
		case wire.KindStdin:
			if open {
				queue <- body
			}
		case wire.KindStdinEOF:
			if open {
				open = false
				close(queue)
			}
		case wire.KindSignal:
			var sig wire.Signal
			if json.Unmarshal(body, &sig) == nil {
				if n, ok := wire.SignalNamed(sig.Name); ok {
					_ = syscall.Kill(-pid, n)
				}
			}
		case wire.KindWindow:
			var w wire.Window
			if json.Unmarshal(body, &w) == nil && st.tty {
				_ = pty.Setsize(st.stdin, &pty.Winsize{Rows: w.Rows, Cols: w.Cols})
			}
		}
	}
}
