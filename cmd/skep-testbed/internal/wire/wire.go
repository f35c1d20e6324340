// SPDX-License-Identifier: BSD-2-Clause

package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"syscall"
)

// Kind tells what a frame carries.
type Kind byte

// Frames from the command to the agent.
const (
	KindRequest  Kind = 'R' // Request, JSON
	KindFiles    Kind = 'F' // a piece of a tar stream
	KindMailbox  Kind = 'M' // Mailbox, JSON: a piece of a tar stream that lies there
	KindStart    Kind = 'S' // no more files: start
	KindStdin    Kind = 'I' // a piece of standard input
	KindStdinEOF Kind = 'E'
	KindSignal   Kind = 'K' // Signal, JSON
	KindWindow   Kind = 'W' // Window, JSON
)

// Frames from the agent to the command.
const (
	KindStdout Kind = 'o'
	KindStderr Kind = 'e'
	KindReturn Kind = 'f' // a piece of the tar stream of returned files
	KindExit   Kind = 'x' // Exit, JSON; the last frame
	KindReply  Kind = 'r' // Status, JSON; answers OpStatus and OpDown
)

// Operations of a Request.
const (
	OpRun    = "run"
	OpHello  = "hello"
	OpStatus = "status"
	OpDown   = "down"
)

// MaxFrame bounds a frame's payload.
const MaxFrame = 64 << 10

// A Request opens a session.
type Request struct {
	Op   string   `json:"op"`
	Args []string `json:"args,omitempty"` // Args[0] is looked up in PATH if it has no slash
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"` // absolute; made if it is missing

	// Files are sent back if they are there afterwards; of Dirs, and of Dir
	// itself if ReturnDir is set, what is new or changed is.
	Files     []string `json:"files,omitempty"`
	Dirs      []string `json:"dirs,omitempty"`
	ReturnDir bool     `json:"return_dir,omitempty"`

	// Keep leaves the processes that the program started, and the files that
	// were sent.
	Keep bool `json:"keep,omitempty"`

	TTY  bool   `json:"tty,omitempty"`
	Rows uint16 `json:"rows,omitempty"`
	Cols uint16 `json:"cols,omitempty"`
}

// Signal is passed on to the process group inside.
type Signal struct {
	Name string `json:"name"` // SIGINT, SIGTERM, ...: numbers differ between systems
}

// Window is a terminal's size.
type Window struct {
	Rows, Cols uint16
}

// Mailbox is a part of the mailbox disk: the way in for files where the control
// port is slow. Offset is a multiple of 4096.
type Mailbox struct {
	Offset, Length int64
}

// Exit tells how the process ended.
type Exit struct {
	Code   int    `json:"code"`
	Signal string `json:"signal,omitempty"` // if a signal ended it
	Error  string `json:"error,omitempty"`  // if it could not be run at all
}

// Status describes a running testbed.
type Status struct {
	Name     string   `json:"name"`
	OS       string   `json:"os"`
	ZFS      string   `json:"zfs"`
	PID      int      `json:"pid"`
	Sessions int      `json:"sessions"`
	Kernel   string   `json:"kernel,omitempty"`
	Notes    []string `json:"notes,omitempty"`
	Error    string   `json:"error,omitempty"`
}

// A Conn reads and writes frames. Writes may come from many goroutines.
type Conn struct {
	rw io.ReadWriteCloser

	mu  sync.Mutex // guards writes
	hdr [5]byte
}

// NewConn returns a Conn over rw.
func NewConn(rw io.ReadWriteCloser) *Conn { return &Conn{rw: rw} }

// Close closes the stream below.
func (c *Conn) Close() error { return c.rw.Close() }

// Write sends one frame.
func (c *Conn) Write(k Kind, p []byte) error {
	if len(p) > MaxFrame {
		return fmt.Errorf("wire: frame %q of %d bytes is too long", k, len(p))
	}
	buf := make([]byte, 5+len(p))
	buf[0] = byte(k)
	binary.BigEndian.PutUint32(buf[1:], uint32(len(p)))
	copy(buf[5:], p)
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.rw.Write(buf)
	return err
}

// WriteJSON sends v as one frame.
func (c *Conn) WriteJSON(k Kind, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.Write(k, p)
}

// Read receives one frame.
func (c *Conn) Read() (Kind, []byte, error) {
	if _, err := io.ReadFull(c.rw, c.hdr[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(c.hdr[1:])
	if n > MaxFrame {
		return 0, nil, fmt.Errorf("wire: frame %q of %d bytes is too long", c.hdr[0], n)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(c.rw, p); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return Kind(c.hdr[0]), p, nil
}

// Writer returns an io.Writer that sends what is written as frames of kind k.
func (c *Conn) Writer(k Kind) io.Writer { return frameWriter{c, k} }

type frameWriter struct {
	c *Conn
	k Kind
}

func (w frameWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n := min(len(p)-done, MaxFrame)
		if err := w.c.Write(w.k, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// signals are those that pass through, by name.
var signals = map[string]syscall.Signal{
	"SIGHUP": syscall.SIGHUP, "SIGINT": syscall.SIGINT, "SIGQUIT": syscall.SIGQUIT,
	"SIGABRT": syscall.SIGABRT, "SIGKILL": syscall.SIGKILL, "SIGUSR1": syscall.SIGUSR1,
	"SIGUSR2": syscall.SIGUSR2, "SIGALRM": syscall.SIGALRM, "SIGTERM": syscall.SIGTERM,
	"SIGCONT": syscall.SIGCONT, "SIGSEGV": syscall.SIGSEGV, "SIGBUS": syscall.SIGBUS,
	"SIGFPE": syscall.SIGFPE, "SIGILL": syscall.SIGILL, "SIGTRAP": syscall.SIGTRAP,
	"SIGPIPE": syscall.SIGPIPE, "SIGSYS": syscall.SIGSYS, "SIGXCPU": syscall.SIGXCPU,
	"SIGXFSZ": syscall.SIGXFSZ,
}

// SignalNamed returns this system's number of the named signal.
func SignalNamed(name string) (syscall.Signal, bool) {
	s, ok := signals[name]
	return s, ok
}

// SignalName returns the name of a signal, or its number if it has none here.
func SignalName(s syscall.Signal) string {
	for name, v := range signals {
		if v == s {
			return name
		}
	}
	return fmt.Sprintf("signal %d", int(s))
}
