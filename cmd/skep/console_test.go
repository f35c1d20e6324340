// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/creack/pty"
	"golang.org/x/term"
)

// guestLine is the serial line of a guest that says history to whoever comes,
// "> " and what it got to whoever writes, and ends at the word poweroff.
type guestLine struct {
	history string
	got     chan string // all that one visitor typed, when it has left
}

func newGuestLine() *guestLine {
	return &guestLine{history: "booted\r\nhive login: ", got: make(chan string, 1)}
}

func (l *guestLine) serve(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	line := websocket.NetConn(r.Context(), ws, websocket.MessageBinary)
	defer line.Close()
	_, err = io.WriteString(line, l.history)
	var got []byte
	buf := make([]byte, 256)
	for n := 0; err == nil && !bytes.Contains(got, []byte("poweroff")); {
		n, err = line.Read(buf)
		got = append(got, buf[:n]...)
		if n > 0 {
			_, _ = line.Write(append([]byte("> "), buf[:n]...))
		}
	}
	l.got <- string(got)
}

// terminal is a person's: what is typed goes into keys, what is shown comes
// out of it.
type terminal struct {
	t      *testing.T
	keys   *os.File // the far side
	tty    *os.File // the program's
	before *term.State
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	keys, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keys.Close(); tty.Close() })
	x := &terminal{t: t, keys: keys, tty: tty}
	x.before = x.state()
	return x
}

func (x *terminal) state() *term.State {
	x.t.Helper()
	s, err := term.GetState(int(x.tty.Fd()))
	if err != nil {
		x.t.Fatal(err)
	}
	return s
}

func (x *terminal) raw() bool { return !reflect.DeepEqual(x.state(), x.before) }

func (x *terminal) press(keys string) {
	x.t.Helper()
	if _, err := io.WriteString(x.keys, keys); err != nil {
		x.t.Fatal(err)
	}
}

// see waits until text is shown.
func (x *terminal) see(text string) {
	x.t.Helper()
	var shown bytes.Buffer
	_ = x.keys.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 1024)
	for !strings.Contains(shown.String(), text) {
		n, err := x.keys.Read(buf)
		shown.Write(buf[:n])
		if err != nil {
			x.t.Fatalf("%q is not shown: %v after %q", text, err, shown.String())
		}
	}
}

// console runs `skep console vm1` on the terminal.
func (x *terminal) console(c *cli) (ended chan error) {
	a := newApp(x.tty, x.tty, x.tty)
	root := a.root()
	root.SetArgs([]string{"--host", c.url, "--key", c.key, "console", "vm1"})
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	ended = make(chan error, 1)
	go func() {
		defer cancel()
		ended <- root.ExecuteContext(ctx)
	}()
	return ended
}

func within[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: nothing for 20 s", what)
	}
	return v
}

func TestConsole(t *testing.T) {
	c := newCLI(t)
	c.h.line = newGuestLine()
	x := newTerminal(t)
	ended := x.console(c)
	x.see("hive login: ")
	if !x.raw() {
		t.Error("the terminal is not raw: the line discipline would eat keys")
	}
	x.press("root\r")
	x.see("> root\r")
	x.press("\x03\x1a\x04") // keys that are the guest's, not ours
	x.see("> \x03\x1a\x04")
	x.press("last\x1dnever")
	if err := within(t, "Ctrl-] leaves", ended); err != nil {
		t.Error(err)
	}
	if x.raw() {
		t.Error("the terminal was left raw")
	}
	if got, want := within(t, "the guest's side", c.h.line.got), "root\r\x03\x1a\x04last"; got != want {
		t.Errorf("the guest got %q, want %q", got, want)
	}
	// The machine did not notice: it can be visited again.
	ended = x.console(c)
	x.see("hive login: ")
	x.press("\x1d")
	if err := within(t, "Ctrl-] leaves", ended); err != nil {
		t.Error(err)
	}
	if got := within(t, "the guest's side", c.h.line.got); got != "" {
		t.Errorf("the guest got %q, want nothing", got)
	}
}

func TestConsoleOfAMachineThatEnds(t *testing.T) {
	c := newCLI(t)
	c.h.line = newGuestLine()
	x := newTerminal(t)
	ended := x.console(c)
	x.see("hive login: ")
	x.press("poweroff\r")
	if err := within(t, "the console ends with the machine", ended); err != nil {
		t.Error(err)
	}
	if x.raw() {
		t.Error("the terminal was left raw")
	}
}

// Without a terminal it is a filter, which the end of its input does not end.
func TestConsoleWithoutTerminal(t *testing.T) {
	c := newCLI(t)
	c.h.line = newGuestLine()
	out, said, err := c.run("poweroff\n", "console", "vm1")
	if err != nil || out != "booted\r\nhive login: > poweroff\n" {
		t.Errorf("%q, %v", out, err)
	}
	if !strings.Contains(said, "console of vm1; Ctrl-] leaves") {
		t.Errorf("it said %q", said)
	}
	// The escape is one here too.
	c.h.line = newGuestLine()
	if _, _, err := c.run("a\x1db", "console", "vm1"); err != nil {
		t.Error(err)
	}
	if got := within(t, "the guest's side", c.h.line.got); got != "a" {
		t.Errorf("the guest got %q, want %q", got, "a")
	}
}
