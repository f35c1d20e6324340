// SPDX-License-Identifier: BSD-2-Clause

package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"

	"github.com/coder/websocket"

	"github.com/skepvm/skep/api/wire"
)

// sse yields the data of server-sent events until the stream ends.
func sse[T any](op string, r io.Reader) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		sc := bufio.NewScanner(r)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			data, ok := strings.CutPrefix(sc.Text(), "data: ")
			if !ok {
				continue
			}
			var v T
			if err := json.Unmarshal([]byte(data), &v); err != nil {
				yield(v, fmt.Errorf("%s: read an event: %w", op, err))
				return
			}
			if !yield(v, nil) {
				return
			}
		}
		if err := sc.Err(); err != nil {
			var zero T
			yield(zero, fmt.Errorf("%s: %w", op, err))
		}
	}
}

// Events yields what happens to the machines from now on, until ctx or the host
// ends. The subscription stands before the first iteration if ready is not nil
// and was called.
func (c *Client) Events(ctx context.Context, ready func()) iter.Seq2[wire.Event, error] {
	return func(yield func(wire.Event, error) bool) {
		a, err := c.send(ctx, "watch events", "GET", "/api/v2/events", nil)
		if err != nil {
			yield(wire.Event{}, err)
			return
		}
		defer a.Body.Close()
		if ready != nil {
			ready()
		}
		for e, err := range sse[wire.Event]("watch events", a.Body) {
			if ctx.Err() != nil {
				return
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// WarmImage fetches an image and makes it ready; progress, if not nil, is told
// of bytes done and in all (0: not known).
func (c *Client) WarmImage(ctx context.Context, name string, progress func(done, total int64)) error {
	op := "warm image " + name
	a, err := c.send(ctx, op, "POST", "/api/v2/images/"+url.PathEscape(name)+"/warm", nil)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	for p, err := range sse[wire.WarmProgress](op, a.Body) {
		switch {
		case err != nil:
			return err
		case p.Error != "":
			return &Error{Op: op, Status: http.StatusInternalServerError, Detail: p.Error}
		case p.Ready:
			return nil
		case progress != nil:
			progress(p.Done, p.Total)
		}
	}
	return fmt.Errorf("%s: the host went away before it was done", op)
}

// Console opens the machine's first serial line: reading begins with its
// history; what is written the guest gets as input. io.EOF is the end of the
// machine. ctx bounds the whole of it.
func (c *Client) Console(ctx context.Context, name string) (io.ReadWriteCloser, error) {
	op := "console of " + name
	h := http.Header{}
	if c.cid != "" {
		h.Set("cid", c.cid)
	}
	ws, a, err := websocket.Dial(ctx, c.base+machinePath(name, "/console"), &websocket.DialOptions{HTTPClient: c.http, HTTPHeader: h})
	if err != nil {
		if a != nil && a.StatusCode != http.StatusSwitchingProtocols && a.Body != nil {
			defer a.Body.Close()
			return nil, refusal(op, a)
		}
		return nil, c.unreachable(op, err)
	}
	return &console{ReadWriteCloser: websocket.NetConn(ctx, ws, websocket.MessageBinary), op: op}, nil
}

type console struct {
	io.ReadWriteCloser
	op string
}

func (c *console) Read(p []byte) (int, error) {
	n, err := c.ReadWriteCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s: %w", c.op, err)
	}
	return n, err
}
