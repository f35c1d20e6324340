// SPDX-License-Identifier: BSD-2-Clause

package testguest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// fakeGuest answers "ping" and stays silent on "hang".
func fakeGuest(t *testing.T) (*Client, *io.PipeWriter) {
	t.Helper()
	consoleR, consoleW := io.Pipe()
	inR, inW := io.Pipe()
	go func() {
		for in := bufio.NewScanner(inR); in.Scan(); {
			f := strings.Fields(in.Text())
			switch f[1] {
			case "ping":
				fmt.Fprintf(consoleW, "[    1.0] a kernel's line\r\n@@ OK %s pong and more\r\n", f[0])
			case "bad":
				fmt.Fprintf(consoleW, "@@ ERR %s no such thing\r\n", f[0])
			}
		}
	}()
	t.Cleanup(func() { consoleW.Close(); inW.Close() })
	return NewClient(consoleR, inW), consoleW
}

func TestClient(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, console := fakeGuest(t)
	go fmt.Fprint(console, "noise\n@@ INIT\n@@ READY\n@@ EVENT power-button\n")
	for _, err := range []error{c.Init(ctx), c.Ready(ctx), c.Wait(ctx, "power-button", 1)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, err := c.Do(ctx, "ping"); err != nil || got != "pong and more" {
		t.Errorf("ping: %q, %v", got, err)
	}
	if _, err := c.Do(ctx, "bad", "x"); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("bad: %v", err)
	}
	if _, err := c.Do(ctx, "two\nlines"); err == nil {
		t.Error("a command of two lines was taken")
	}
	short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	defer stop()
	if _, err := c.Do(short, "hang"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "a kernel's line") {
		t.Errorf("hang: %v, want a deadline and the console", err)
	}
	panicked := make(chan error, 1)
	go func() { _, err := c.Do(ctx, "hang"); panicked <- err }()
	time.Sleep(20 * time.Millisecond)
	fmt.Fprint(console, "[ 1.0] the cause\n[ 1.1] Kernel panic - not syncing: oops\n")
	if err := <-panicked; !errors.Is(err, ErrPanic) || !strings.Contains(err.Error(), "the cause") {
		t.Errorf("a command under way when the kernel panicked: %v", err)
	}
	gone := make(chan error, 1)
	go func() { _, err := c.Do(ctx, "hang"); gone <- err }()
	time.Sleep(20 * time.Millisecond)
	console.Close()
	if err := <-gone; !errors.Is(err, ErrGone) {
		t.Errorf("a command under way when the console closed: %v", err)
	}
	if _, err := c.Do(ctx, "ping"); !errors.Is(err, ErrGone) {
		t.Errorf("a command after that: %v", err)
	}
	if err := c.Wait(ctx, "READY", 2); !errors.Is(err, ErrGone) {
		t.Errorf("waiting after that: %v", err)
	}
}

func TestFindOutside(t *testing.T) {
	t.Setenv(DirEnv, t.TempDir())
	if _, err := Find(); err == nil || !strings.Contains(err.Error(), DirEnv) {
		t.Errorf("%v, want an error that says what to do", err)
	}
}
