// SPDX-License-Identifier: BSD-2-Clause

package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/skepvm/skep/cmd/skep-testbed/internal/wire"
)

// ControlPort is the name of the virtio-serial port.
const ControlPort = "skep.control"

// MuxConfig is how both ends share the port: no timers, since an emulated
// machine may stand still for as long as it likes.
func MuxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = 24 * time.Hour
	c.StreamOpenTimeout = 0
	c.StreamCloseTimeout = 24 * time.Hour
	c.MaxStreamWindowSize = 1 << 20
	c.LogOutput = io.Discard
	return c
}

// serve runs sessions until the port is closed from outside.
func serve() error {
	port, err := openControl()
	if err != nil {
		return err
	}
	// A core file would lie in the working directory and be sent back as one of
	// the program's results.
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	if _, err := io.WriteString(port, wire.Hail); err != nil {
		return fmt.Errorf("control port: %w", err)
	}
	if portDrops {
		port = wire.NewPaced(port, 0)
	}
	mux, err := yamux.Server(port, MuxConfig())
	if err != nil {
		return err
	}
	s := &server{began: time.Now(), made: map[string]bool{}, busy: map[string]bool{}, sent: map[string]int{}}
	for {
		stream, err := mux.Accept()
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, yamux.ErrSessionShutdown) {
				return nil
			}
			return fmt.Errorf("control port: %w", err)
		}
		go s.session(stream)
	}
}

// server is what the sessions share.
type server struct {
	began time.Time // what is older is the machine's own

	mu   sync.Mutex // guards what follows
	last int
	made map[string]bool // directories that were made for sessions
	sent map[string]int  // files that sessions were sent, and how many of them
	busy map[string]bool // working directories in use where they cannot be private
}

func (s *server) session(stream net.Conn) {
	conn := wire.NewConn(stream)
	defer conn.Close()
	kind, body, err := conn.Read()
	if err != nil || kind != wire.KindRequest {
		return
	}
	req, err := parseRequest(body)
	if err != nil {
		_ = conn.WriteJSON(wire.KindExit, wire.Exit{Error: err.Error()})
		return
	}
	switch req.Op {
	case wire.OpHello:
		_ = conn.WriteJSON(wire.KindReply, hello())
	case wire.OpRun:
		s.run(conn, req)
	default:
		_ = conn.WriteJSON(wire.KindExit, wire.Exit{Error: fmt.Sprintf("unknown operation %q", req.Op)})
	}
}

func (s *server) nextID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	return s.last
}

func logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "skep-testbed agent: "+format+"\n", args...)
}
