// SPDX-License-Identifier: BSD-2-Clause

package testguest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
)

// maxTranscript bounds what a Client remembers of the console.
const maxTranscript = 64 << 10

// A Client speaks with the guest's init.
type Client struct {
	in io.Writer

	write sync.Mutex // guards in

	mu         sync.Mutex // guards what follows
	changed    chan struct{}
	transcript []byte
	marks      map[string]int // INIT, READY and events, and how often each came
	next       int
	waiting    map[int]chan answer
	err        error // why reading ended
}

type answer struct {
	text string
	err  error
}

// ErrGone says that the console was closed, ErrPanic that the guest's kernel gave up:
// what it had to answer it never will.
var (
	ErrGone  = errors.New("the guest's console is closed")
	ErrPanic = errors.New("the guest's kernel panicked")
)

// NewClient reads the guest's console from out until it ends and writes
// commands to in.
func NewClient(out io.Reader, in io.Writer) *Client {
	c := &Client{in: in, changed: make(chan struct{}), marks: map[string]int{}, waiting: map[int]chan answer{}}
	go c.read(out)
	return c
}

func (c *Client) read(out io.Reader) {
	r := bufio.NewReaderSize(out, 64<<10)
	for {
		line, err := r.ReadString('\n')
		c.line(line)
		if err != nil {
			c.mu.Lock()
			c.err = fmt.Errorf("%w: %w", ErrGone, err)
			c.abandon(c.err)
			c.notify()
			c.mu.Unlock()
			return
		}
	}
}

// abandon fails all commands under way; the caller holds mu.
func (c *Client) abandon(err error) {
	for id, w := range c.waiting {
		w <- answer{err: err}
		delete(c.waiting, id)
	}
}

// notify wakes those that wait for a mark; the caller holds mu.
func (c *Client) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Client) line(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.transcript = append(c.transcript, line...)
	if n := len(c.transcript) - maxTranscript; n > 0 {
		c.transcript = c.transcript[:copy(c.transcript, c.transcript[n:])]
	}
	if strings.Contains(line, "Kernel panic - not syncing") {
		c.abandon(fmt.Errorf("%w; console:\n%s", ErrPanic, strings.ReplaceAll(string(c.transcript), "\r", "")))
	}
	_, body, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "@@ ")
	if !ok {
		return
	}
	f := strings.SplitN(body, " ", 3)
	switch f[0] {
	case "INIT", "READY":
		c.marks[f[0]]++
		c.notify()
	case "EVENT":
		if len(f) > 1 {
			c.marks[f[1]]++
			c.notify()
		}
	case "OK", "ERR":
		if len(f) < 2 {
			return
		}
		id, err := strconv.Atoi(f[1])
		w := c.waiting[id]
		if err != nil || w == nil {
			return
		}
		delete(c.waiting, id)
		text := strings.Join(f[2:], "")
		if f[0] == "ERR" {
			w <- answer{err: fmt.Errorf("in the guest: %s", text)}
		} else {
			w <- answer{text: text}
		}
	}
}

// Ready waits until the guest takes commands for the first time.
func (c *Client) Ready(ctx context.Context) error { return c.Wait(ctx, "READY", 1) }

// Init waits until the guest's init runs.
func (c *Client) Init(ctx context.Context) error { return c.Wait(ctx, "INIT", 1) }

// Wait waits until the mark (INIT, READY, or an event's name) came n times in
// all: a guest that was rebooted says READY again.
func (c *Client) Wait(ctx context.Context, mark string, n int) error {
	for {
		c.mu.Lock()
		count, changed, err := c.marks[mark], c.changed, c.err
		c.mu.Unlock()
		switch {
		case count >= n:
			return nil
		case err != nil:
			return fmt.Errorf("wait for %s: %w; console:\n%s", mark, err, c.Transcript())
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; console:\n%s", mark, ctx.Err(), c.Transcript())
		}
	}
}

// Do runs a command in the guest.
func (c *Client) Do(ctx context.Context, command ...string) (string, error) {
	w := make(chan answer, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return "", c.err
	}
	c.next++
	id := c.next
	c.waiting[id] = w
	c.mu.Unlock()
	what := strings.Join(command, " ")
	if err := c.send(id, what); err != nil {
		c.forget(id)
		return "", fmt.Errorf("guest command %q: %w", what, err)
	}
	select {
	case a := <-w:
		if a.err != nil {
			return "", fmt.Errorf("guest command %q: %w", what, a.err)
		}
		return a.text, nil
	case <-ctx.Done():
		c.forget(id)
		return "", fmt.Errorf("guest command %q: %w; console:\n%s", what, ctx.Err(), c.Transcript())
	}
}

// Send sends a command that has no answer, such as reboot.
func (c *Client) Send(command ...string) error {
	return c.send(0, strings.Join(command, " "))
}

func (c *Client) send(id int, what string) error {
	if strings.ContainsAny(what, "\r\n") {
		return errors.New("a command is one line")
	}
	c.write.Lock()
	defer c.write.Unlock()
	_, err := fmt.Fprintf(c.in, "%d %s\n", id, what)
	return err
}

func (c *Client) forget(id int) {
	c.mu.Lock()
	delete(c.waiting, id)
	c.mu.Unlock()
}

// Transcript returns the end of what the console showed.
func (c *Client) Transcript() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.ReplaceAll(string(c.transcript), "\r", "")
}
