// SPDX-License-Identifier: BSD-2-Clause

package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/skepvm/skep/internal/worker/ctl"
)

const (
	// maxConns bounds the connections at once.
	maxConns = 64
	// patience is how long a client may take to ask, or to take an answer.
	patience = 30 * time.Second
	// opPatience bounds an operation, so that whoever asked is still there to hear
	// that it did not come about.
	opPatience = 25 * time.Second
)

// server answers on the control socket.
type server struct {
	cfg     Config
	console *Console
	guest   Guest
	stats   func() (time.Duration, int64) // CPU time and resident memory

	wg   sync.WaitGroup
	slot chan struct{}
	quit chan struct{} // closed by close: connections end

	mu      sync.Mutex
	now     ctl.Event
	changed chan struct{} // closed and renewed when now changes
}

func newServer(cfg Config, console *Console) *server {
	return &server{
		cfg:     cfg,
		console: console,
		stats:   usage,
		slot:    make(chan struct{}, maxConns),
		quit:    make(chan struct{}),
		now:     ctl.Event{State: ctl.Starting},
		changed: make(chan struct{}),
	}
}

// set publishes the guest's state.
func (s *server) set(e ctl.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now.State == ctl.Ended {
		return
	}
	s.now = e
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *server) event() (ctl.Event, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now, s.changed
}

// serve accepts until the listener is closed.
func (s *server) serve(l net.Listener) {
	defer s.wg.Done()
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select { // out of descriptors, say
			case <-time.After(100 * time.Millisecond):
				continue
			case <-s.quit:
				return
			}
		}
		select {
		case s.slot <- struct{}{}:
			s.wg.Add(1)
			go func() {
				defer s.wg.Done()
				defer func() { <-s.slot }()
				defer c.Close()
				s.talk(c)
			}()
		default:
			c.Close()
		}
	}
}

// close ends every connection, watchers having been given a moment to read the
// last event, and waits for them.
func (s *server) close(l net.Listener) {
	l.Close()
	close(s.quit)
	s.wg.Wait()
}

func (s *server) allowed(c net.Conn) bool {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	cred, err := ctl.PeerCred(uc)
	return err == nil && (cred.UID == 0 || cred.UID == s.cfg.Owner)
}

func (s *server) talk(c net.Conn) {
	if !s.allowed(c) {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	s.wg.Add(1)
	go func() { // the connection ends with the worker
		defer s.wg.Done()
		select {
		case <-s.quit:
			cancel()
			c.SetReadDeadline(time.Unix(1, 0))
			c.SetWriteDeadline(time.Now().Add(time.Second))
		case <-done:
		}
	}()
	send := func(v any) error {
		select {
		case <-s.quit:
		default:
			c.SetWriteDeadline(time.Now().Add(patience))
		}
		return ctl.WriteFrame(c, v)
	}
	if send(ctl.Hello{Version: ctl.Version, Machine: s.cfg.Machine, Began: s.cfg.Began}) != nil {
		return
	}
	for {
		var req ctl.Request
		if ctl.ReadFrame(c, &req) != nil {
			return
		}
		switch req.Op {
		case ctl.OpWatch:
			s.watch(c, send)
			return
		case ctl.OpConsole:
			s.attach(c, send)
			return
		}
		opctx, stop := context.WithTimeout(ctx, opPatience)
		resp := s.do(opctx, req.Op)
		stop()
		if send(resp) != nil {
			return
		}
	}
}

func (s *server) do(ctx context.Context, op ctl.Op) ctl.Response {
	var resp ctl.Response
	var err error
	switch op {
	case ctl.OpStatus:
	case ctl.OpPause:
		err = s.guest.Pause(ctx)
	case ctl.OpResume:
		err = s.guest.Resume(ctx)
	case ctl.OpPower:
		err = s.guest.PowerButton(ctx)
	case ctl.OpReset:
		err = s.guest.Reset(ctx)
	case ctl.OpKill:
		s.guest.Kill()
	case ctl.OpStats:
		cpu, rss := s.stats()
		resp.Stats = &ctl.Stats{CPUTime: cpu, RSS: rss, Counters: s.guest.Counters()}
	default:
		err = fmt.Errorf("no operation %.40q in version %d of the protocol", op, ctl.Version)
	}
	if err != nil {
		resp.Error = err.Error()
		if len(resp.Error) > 4096 {
			resp.Error = resp.Error[:4096]
		}
	}
	now, _ := s.event()
	resp.State, resp.Resets = now.State, now.Resets
	return resp
}

// watch sends the state now and whenever it changes. Every state is sent unless
// the watcher is slow; the last one always.
func (s *server) watch(c net.Conn, send func(any) error) {
	gone := make(chan struct{})
	s.wg.Add(1)
	go func() { // a watcher says nothing more: reading tells that it hung up
		defer s.wg.Done()
		defer close(gone)
		var b [1]byte
		c.Read(b[:])
	}()
	defer func() { c.Close(); <-gone }()
	if send(ctl.Response{}) != nil {
		return
	}
	for {
		now, changed := s.event()
		if send(now) != nil || now.State == ctl.Ended {
			return
		}
		select {
		case <-changed:
		case <-gone:
			// The worker's end also ends the read: the last event goes first.
			if now, _ := s.event(); now.State == ctl.Ended {
				send(now)
			}
			return
		}
	}
}

func (s *server) attach(c net.Conn, send func(any) error) {
	r, history := s.console.attach()
	if r == nil {
		send(ctl.Response{Error: fmt.Sprintf("%d consoles are open already", maxReaders)})
		return
	}
	defer s.console.detach(r)
	if send(ctl.Response{History: len(history)}) != nil {
		return
	}
	stop := make(chan struct{})
	inputDone := make(chan struct{})
	s.wg.Add(1)
	go func() { // what is typed
		defer s.wg.Done()
		defer close(inputDone)
		defer s.console.detach(r) // the other end has hung up
		buf := make([]byte, 1024)
		for {
			n, err := c.Read(buf)
			if n > 0 && !s.console.send(buf[:n], stop) {
				return
			}
			if err != nil {
				return
			}
		}
	}()
	write := func(p []byte) error {
		c.SetWriteDeadline(time.Now().Add(patience))
		_, err := c.Write(p)
		return err
	}
	if write(history) == nil {
		for p := s.console.next(r); p != nil; p = s.console.next(r) {
			if write(p) != nil {
				break
			}
		}
	}
	close(stop)
	c.Close()
	<-inputDone
}
