// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/danielgtaylor/huma/v2"

	"github.com/skepvm/skep/api/wire"
	"github.com/skepvm/skep/internal/apihost"
)

// The routes that go on for long: events and image progress as server-sent
// events, the console as a WebSocket of binary messages.

const (
	streamWrite = 30 * time.Second // how long one write may wait for a slow reader
	keepAlive   = 15 * time.Second
)

func (s *Server) streamsV2(api huma.API) {
	for _, x := range []struct {
		method, path, summary string
		status                string
		h                     func(http.ResponseWriter, *http.Request) error
	}{
		{"GET", "/api/v2/events", "What happens to the machines from now on, as server-sent events (text/event-stream) of Event values.", "200", s.v2Events},
		{"POST", "/api/v2/images/{name}/warm", "Fetch an image and make it ready, with its progress as server-sent events of WarmProgress values.", "200", s.v2Warm},
		{"GET", "/api/v2/machines/{name}/console", "The guest's first serial line, as a WebSocket of binary messages: first the history, then live; what is sent the guest gets as input.", "101", s.v2Console},
		{"GET", "/api/v2/machines/{name}/log", "What the machine, running or not, last wrote to its first serial line (text/plain).", "200", s.v2Log},
	} {
		op := &huma.Operation{
			OperationID: operationID(x.method, x.path), Method: x.method, Path: x.path, Summary: x.summary,
			Responses: map[string]*huma.Response{x.status: {Description: "see the summary"}},
		}
		api.OpenAPI().AddOperation(op)
		s.mux.HandleFunc(x.method+" "+x.path, func(w http.ResponseWriter, r *http.Request) {
			err := s.failV2(x.h(w, r))
			if err == nil {
				return
			}
			var se huma.StatusError
			errors.As(err, &se) // failV2 gives no other
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(se.GetStatus())
			_ = json.NewEncoder(w).Encode(se) // a client that is gone cannot be told
		})
	}
}

func (s *Server) requestSpace(r *http.Request) (ns string, all bool, err error) {
	return s.space(r.Context(), Caller{CID: r.Header.Get("cid"), Namespace: r.URL.Query().Get("namespace")})
}

// eventStream writes server-sent events; send may be called from any goroutine.
type eventStream struct {
	mu sync.Mutex
	w  http.ResponseWriter
	rc *http.ResponseController
}

func newEventStream(w http.ResponseWriter) *eventStream {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	e := &eventStream{w: w, rc: http.NewResponseController(w)}
	_ = e.rc.Flush()
	return e
}

// send writes v, or, if v is nil, a comment that keeps the connection alive.
func (e *eventStream) send(v any) error {
	line := []byte(":\n\n")
	if v != nil {
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode an event: %w", err)
		}
		line = append(append([]byte("data: "), b...), '\n', '\n')
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.rc.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := e.w.Write(line); err != nil {
		return err
	}
	return e.rc.Flush()
}

// beat keeps a quiet stream alive until ctx ends or the client is gone, which
// ends it by cancel. The function that it returns waits for that.
func (e *eventStream) beat(ctx context.Context, cancel context.CancelFunc) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(keepAlive)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				if e.send(nil) != nil {
					cancel()
					return
				}
			}
		}
	}()
	return func() { cancel(); <-done }
}

func (s *Server) v2Events(w http.ResponseWriter, r *http.Request) error {
	ns, all, err := s.requestSpace(r)
	if err != nil {
		return err
	}
	if all {
		ns = ""
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	events := s.host.Watch(ctx, ns)
	e := newEventStream(w)
	defer e.beat(ctx, cancel)()
	for ev := range events {
		out := wire.Event{Time: ev.Time, Kind: string(ev.Kind), Namespace: ev.Namespace, Name: ev.Name, State: string(ev.State), Reason: ev.Reason, Lost: ev.Lost}
		if ev.Progress != nil {
			out.Progress = progressOf(*ev.Progress)
		}
		if e.send(out) != nil {
			return nil
		}
	}
	return nil
}

func (s *Server) v2Warm(w http.ResponseWriter, r *http.Request) error {
	if _, _, err := s.requestSpace(r); err != nil {
		return err
	}
	name := r.PathValue("name")
	list, err := s.host.Images(r.Context())
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	known := false
	for _, i := range list {
		known = known || i.Name == name
	}
	if !known {
		return huma.Error404NotFound(fmt.Sprintf("no image %.64q in the catalogue", name))
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	e := newEventStream(w)
	defer e.beat(ctx, cancel)()
	var last time.Time
	err = s.host.WarmImage(ctx, name, func(done, total int64) {
		if time.Since(last) < 200*time.Millisecond {
			return
		}
		last = time.Now()
		if e.send(wire.WarmProgress{Done: done, Total: total}) != nil {
			cancel()
		}
	})
	end := wire.WarmProgress{Ready: err == nil}
	if err != nil {
		end.Error = err.Error()
	}
	_ = e.send(end) // a client that is gone cannot be told
	return nil
}

func (s *Server) v2Log(w http.ResponseWriter, r *http.Request) error {
	ns, _, err := s.requestSpace(r)
	if err != nil {
		return err
	}
	return s.host.Do(r.Context(), ns, r.PathValue("name"), func(ctx context.Context, m apihost.Machine) error {
		b, err := m.ConsoleLog(ctx)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write(b) // a client that is gone cannot be told
		return nil
	})
}

func (s *Server) v2Console(w http.ResponseWriter, r *http.Request) error {
	ns, _, err := s.requestSpace(r)
	if err != nil {
		return err
	}
	return s.host.Do(r.Context(), ns, r.PathValue("name"), func(_ context.Context, m apihost.Machine) error {
		ctx, cancel := context.WithCancel(s.ctx)
		defer cancel()
		line, err := m.Console(ctx)
		if err != nil {
			return err
		}
		defer line.Close()
		// Cross-origin pages are refused by the library's default.
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return nil // it has answered
		}
		defer c.CloseNow()
		c.SetReadLimit(64 << 10)
		var g sync.WaitGroup
		g.Go(func() {
			defer cancel()
			defer line.Close()
			for {
				_, b, err := c.Read(ctx)
				if err != nil {
					return
				}
				if _, err := line.Write(b); err != nil {
					return
				}
			}
		})
		err = copyToSocket(ctx, c, line)
		switch {
		case errors.Is(err, io.EOF):
			_ = c.Close(websocket.StatusNormalClosure, "the machine is off")
		case ctx.Err() == nil:
			_ = c.Close(websocket.StatusInternalError, "the console was lost")
		}
		cancel()
		g.Wait()
		return nil
	})
}

func copyToSocket(ctx context.Context, c *websocket.Conn, line io.Reader) error {
	buf := make([]byte, 16<<10)
	for {
		n, err := line.Read(buf)
		if n > 0 {
			wctx, cancel := context.WithTimeout(ctx, streamWrite)
			werr := c.Write(wctx, websocket.MessageBinary, buf[:n])
			cancel()
			if werr != nil {
				return werr
			}
		}
		if err != nil {
			return err
		}
	}
}
