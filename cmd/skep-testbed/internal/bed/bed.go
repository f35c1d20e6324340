// SPDX-License-Identifier: BSD-2-Clause

//go:build linux

package bed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/skepvm/skep/cmd/skep-testbed/internal/agent"
	"github.com/skepvm/skep/cmd/skep-testbed/internal/build"
	"github.com/skepvm/skep/cmd/skep-testbed/internal/wire"
)

// bootLimit bounds the time from QEMU's start to the agent's first answer. An
// emulated machine takes a minute over a small FreeBSD image, and the official
// ones have more to start.
const bootLimit = 15 * time.Minute

// deadEnds are what the last line of a console shows where no agent will come
// any more.
var deadEnds = []struct{ sign, why string }{
	{"Shell>", "the firmware found no loader"},
	{"mountroot>", "the kernel found no root file system"},
	{"login:", "the system is up and has not started the agent: an image must have nuageinit(7) enabled, and must never have been booted"},
}

// deadEnd tells why no agent will come, if the console says so.
func deadEnd(console string) error {
	last := console[strings.LastIndexByte(console, '\n')+1:]
	for _, d := range deadEnds {
		if strings.Contains(last, d.sign) {
			return errors.New(d.why)
		}
	}
	return nil
}

// A Bed is a running testbed.
type Bed struct {
	Spec   Spec
	Kernel string // as the agent reports it

	qemu    *exec.Cmd
	mux     *yamux.Session
	mailbox *mailbox // nil where the control port is fast
	console *consoleLog
	done    chan struct{} // closed when QEMU has ended
	exit    error         // why; valid after done
	once    sync.Once
}

// A machine is what QEMU is given.
type machine struct {
	args    []string
	files   []*os.File // become descriptors 3, 4, ...
	mailbox *mailbox
}

// fd adds an open file and returns its descriptor's number in QEMU.
func (m *machine) fd(f *os.File) int {
	m.files = append(m.files, f)
	return len(m.files) + 2
}

func (m *machine) arg(args ...string) { m.args = append(m.args, args...) }

func (m *machine) close() {
	for _, f := range m.files {
		f.Close()
	}
}

// Boot makes what is missing, boots a testbed and waits until its agent
// answers.
func Boot(ctx context.Context, cache *build.Cache, spec Spec) (*Bed, error) {
	if err := spec.Complete(); err != nil {
		return nil, err
	}
	m := &machine{}
	defer m.close()
	var err error
	switch spec.OS {
	case "linux":
		err = linuxMachine(ctx, cache, spec, m)
	case "freebsd":
		err = freebsdMachine(ctx, cache, spec, m)
	}
	if err != nil {
		return nil, err
	}
	control, err := m.socket("control")
	if err != nil {
		return nil, err
	}
	consoleR, consoleW, err := os.Pipe()
	if err != nil {
		control.Close()
		return nil, err
	}
	b := &Bed{Spec: spec, console: &consoleLog{max: 256 << 10}, done: make(chan struct{})}
	m.arg("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-device", "virtio-serial-pci,id=vser",
		"-device", "virtserialport,bus=vser.0,chardev=control,name="+agent.ControlPort,
		"-chardev", fmt.Sprintf("file,id=console,path=/dev/fd/%d", m.fd(consoleW)),
		"-serial", "chardev:console")
	go b.console.read(consoleR)
	binary := os.Getenv(QEMUEnv)
	if binary == "" {
		binary = "qemu-system-x86_64"
	}
	path, err := exec.LookPath(binary)
	if err != nil {
		control.Close()
		return nil, fmt.Errorf("QEMU is not installed (make deps installs it): %w", err)
	}
	b.qemu = &exec.Cmd{Path: path, Args: append([]string{path}, m.args...), ExtraFiles: m.files}
	var notes complaints
	b.qemu.Stderr = &notes
	b.qemu.Dir = "/"
	// Its own session: Ctrl-C must reach the test inside, not QEMU.
	b.qemu.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := b.start(&notes); err != nil {
		control.Close()
		return nil, err
	}
	conn, err := net.FileConn(control)
	control.Close()
	if err != nil {
		b.Close()
		return nil, err
	}
	b.mailbox = m.mailbox
	if err := b.connect(ctx, conn); err != nil {
		b.Close()
		return nil, err
	}
	go b.beat()
	return b, nil
}

// heartbeat is how often the machine is woken.
const heartbeat = 500 * time.Millisecond

// beat pings the agent until the machine ends. Now and then QEMU's emulation
// loses the timer interrupt of a processor that runs guests (see emulation), and
// an idle machine would stand still until somebody asks it for something: one was
// seen to sleep for a quarter of an hour. Any interrupt makes up for it.
func (b *Bed) beat() {
	t := time.NewTicker(heartbeat)
	defer t.Stop()
	for {
		select {
		case <-b.done:
			return
		case <-t.C:
		}
		if _, err := b.mux.Ping(); err != nil {
			return // the agent's end: those who use it are told
		}
	}
}

// start starts QEMU from a thread that lives exactly as long as QEMU may: the
// parent-death signal goes by thread.
func (b *Bed) start(notes *complaints) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := b.qemu.Start(); err != nil {
			started <- fmt.Errorf("start %s: %w", b.qemu.Path, err)
			return
		}
		started <- nil
		err := b.qemu.Wait()
		b.exit = fmt.Errorf("QEMU ended: %v %s", exitText(err), notes.String())
		close(b.done)
	}()
	return <-started
}

func exitText(err error) string {
	if err == nil {
		return "the machine powered off"
	}
	return err.Error()
}

// connect waits for the agent and asks its name.
func (b *Bed) connect(ctx context.Context, conn net.Conn) error {
	type answer struct {
		mux *yamux.Session
		st  wire.Status
		err error
	}
	got := make(chan answer, 1)
	go func() {
		mux, st, err := hello(conn, b.mailbox != nil)
		got <- answer{mux, st, err}
	}()
	limit := time.NewTimer(bootLimit)
	defer limit.Stop()
	fail := func(why error) error {
		return fmt.Errorf("boot the %s testbed: %w; its console's last lines:\n%s", b.Spec.OS, why, b.console.tail(40))
	}
	// The agent may answer a moment after the console's last line.
	look := time.NewTicker(20 * time.Second)
	defer look.Stop()
	var before string
	for {
		select {
		case a := <-got:
			if a.err != nil {
				select {
				case <-b.done:
					return fail(b.exit)
				case <-time.After(2 * time.Second):
				}
				return fail(a.err)
			}
			b.mux, b.Kernel = a.mux, a.st.Kernel
			return nil
		case <-b.done:
			return fail(b.exit)
		case <-look.C:
			now := b.console.tail(1)
			if err := deadEnd(now); err != nil && now == before {
				conn.Close()
				return fail(err)
			}
			before = now
		case <-limit.C:
			conn.Close()
			return fail(fmt.Errorf("no answer from the agent after %s", bootLimit))
		case <-ctx.Done():
			conn.Close()
			return ctx.Err()
		}
	}
}

func hello(conn net.Conn, paced bool) (*yamux.Session, wire.Status, error) {
	var st wire.Status
	if err := wire.AwaitHail(conn); err != nil {
		return nil, st, err
	}
	var port io.ReadWriteCloser = conn
	if paced {
		port = wire.NewPaced(conn, wire.PacedWindow)
	}
	mux, err := yamux.Client(port, agent.MuxConfig())
	if err != nil {
		return nil, st, err
	}
	stream, err := mux.Open()
	if err != nil {
		return nil, st, err
	}
	c := wire.NewConn(stream)
	defer c.Close()
	if err := c.WriteJSON(wire.KindRequest, wire.Request{Op: wire.OpHello}); err != nil {
		return nil, st, err
	}
	_, body, err := c.Read()
	if err != nil {
		return nil, st, err
	}
	return mux, st, json.Unmarshal(body, &st)
}

// open opens a stream to the agent.
func (b *Bed) open() (net.Conn, error) {
	s, err := b.mux.Open()
	if err != nil {
		return nil, fmt.Errorf("reach the testbed's agent: %w", err)
	}
	return s, nil
}

// Session returns a connection for one session.
func (b *Bed) Session() net.Conn {
	ours, theirs := net.Pipe()
	go func() {
		defer ours.Close()
		b.relay(wire.NewConn(ours), nil)
	}()
	return theirs
}

// Done is closed when the machine has ended.
func (b *Bed) Done() <-chan struct{} { return b.done }

// Err tells why the machine ended, with the end of its console. It waits for
// that end.
func (b *Bed) Err() error {
	<-b.done
	return fmt.Errorf("%w; its console's last lines:\n%s", b.exit, b.console.tail(60))
}

// Sessions returns the number of open streams.
func (b *Bed) Sessions() int { return b.mux.NumStreams() }

// Close ends the machine at once: nothing in it is worth saving.
func (b *Bed) Close() {
	b.once.Do(func() {
		if err := b.qemu.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			fmt.Fprintf(os.Stderr, "skep-testbed: end QEMU: %v\n", err)
		}
		<-b.done
		if b.mux != nil {
			b.mux.Close()
		}
	})
}

// socket adds a character device whose other end is returned.
func (m *machine) socket(id string) (*os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), id)
	m.arg("-chardev", fmt.Sprintf("socket,id=%s,fd=%d", id, m.fd(theirs)))
	return os.NewFile(uintptr(fds[0]), id), nil
}

// consoleLog keeps the end of what the machine prints.
type consoleLog struct {
	max int
	mu  sync.Mutex
	buf []byte
}

func (l *consoleLog) read(f *os.File) {
	defer f.Close()
	p := make([]byte, 4096)
	for {
		n, err := f.Read(p)
		l.mu.Lock()
		l.buf = append(l.buf, p[:n]...)
		if over := len(l.buf) - l.max; over > 0 {
			l.buf = l.buf[:copy(l.buf, l.buf[over:])]
		}
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (l *consoleLog) tail(lines int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := strings.Split(strings.TrimRight(strings.ReplaceAll(string(l.buf), "\r", ""), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// complaints keeps the first few KiB of what QEMU complains about.
type complaints struct {
	mu  sync.Mutex
	buf []byte
}

func (t *complaints) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[:min(len(p), max(0, 4096-len(t.buf)))]...)
	return len(p), nil
}

func (t *complaints) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
