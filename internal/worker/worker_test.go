// SPDX-License-Identifier: BSD-2-Clause

package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/skepvm/skep/internal/worker/ctl"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRing(t *testing.T) {
	var r ring
	var all []byte
	for i := range 9000 {
		p := []byte(fmt.Sprintf("line %d\n", i*i))
		if i%1000 == 999 {
			p = bytes.Repeat(p, historySize/len(p)+i%7) // more than fits
		}
		all = append(all, p...)
		r.write(p)
		want := all[max(0, len(all)-historySize):]
		if i%97 == 0 && !bytes.Equal(r.bytes(), want) {
			t.Fatalf("after %d bytes the ring is wrong", len(all))
		}
	}
}

func TestConsoleLogStaysSmall(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const limit = 300 << 10
	c := newConsole(f, limit)
	defer c.close()
	for i := range 20000 {
		fmt.Fprintf(c, "this is line %d of the guest\n", i)
		if i%500 == 0 {
			if fi, err := f.Stat(); err != nil || fi.Size() > limit {
				t.Fatalf("log: %v, %v", fi.Size(), err)
			}
		}
	}
	b, err := os.ReadFile(f.Name())
	if err != nil || !bytes.HasSuffix(b, []byte("line 19999 of the guest\n")) || len(b) < historySize/2 {
		t.Errorf("log has %d bytes, %v", len(b), err)
	}
}

// stubGuest does nothing.
type stubGuest struct {
	pause chan struct{} // Pause waits for it
	err   error
	input bytes.Buffer
}

func (g *stubGuest) Run(ctx context.Context) ctl.Exit {
	<-ctx.Done()
	return ctl.Exit{Kind: ctl.Killed}
}
func (g *stubGuest) Pause(ctx context.Context) error {
	if g.pause == nil {
		return g.err
	}
	select {
	case <-g.pause:
		return g.err
	case <-ctx.Done():
		return ctx.Err()
	}
}
func (g *stubGuest) Confine() error                    { return nil }
func (g *stubGuest) Resume(context.Context) error      { return g.err }
func (g *stubGuest) Reset(context.Context) error       { return g.err }
func (g *stubGuest) PowerButton(context.Context) error { return g.err }
func (g *stubGuest) Kill()                             {}
func (g *stubGuest) Input() io.Writer                  { return &g.input }
func (g *stubGuest) Counters() map[string]uint64       { return map[string]uint64{"n": 1} }
func (g *stubGuest) Close() error                      { return nil }

func startServer(t testing.TB, g Guest) (*server, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c := newConsole(nil, 0)
	s := newServer(Config{Machine: "m", Owner: uint32(os.Geteuid())}, c)
	s.guest = g
	s.set(ctl.Event{State: ctl.Running})
	s.wg.Add(1)
	go s.serve(l)
	t.Cleanup(func() {
		c.close()
		s.set(ctl.Event{State: ctl.Ended})
		s.close(l)
	})
	return s, path
}

func TestOperations(t *testing.T) {
	g := &stubGuest{}
	_, path := startServer(t, g)
	c, err := ctl.Dial(t.Context(), path, "m")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, op := range []ctl.Op{ctl.OpStatus, ctl.OpPause, ctl.OpResume, ctl.OpReset, ctl.OpPower, ctl.OpKill, ctl.OpStats} {
		r, err := c.Do(op)
		if err != nil || r.State != ctl.Running {
			t.Errorf("%s: %+v, %v", op, r, err)
		}
		if op == ctl.OpStats && (r.Stats == nil || r.Stats.Counters["n"] != 1) {
			t.Errorf("stats: %+v", r.Stats)
		}
	}
	if _, err := c.Do("make tea"); !errors.Is(err, ctl.ErrRefused) {
		t.Errorf("an unknown operation: %v", err)
	}
	g.err = errors.New(strings.Repeat("x", 1<<20))
	if _, err := c.Do(ctl.OpPause); !errors.Is(err, ctl.ErrRefused) || len(err.Error()) > 8<<10 {
		t.Errorf("a long error: %d bytes", len(err.Error()))
	}
}

func TestWatch(t *testing.T) {
	s, path := startServer(t, &stubGuest{})
	c, err := ctl.Dial(t.Context(), path, "m")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Do(ctl.OpWatch); err != nil {
		t.Fatal(err)
	}
	next := func() (e ctl.Event) {
		if err := ctl.ReadFrame(c, &e); err != nil {
			t.Fatal(err)
		}
		return e
	}
	if e := next(); e.State != ctl.Running {
		t.Errorf("first event %+v", e)
	}
	s.set(ctl.Event{State: ctl.Paused, Resets: 3})
	if e := next(); e.State != ctl.Paused || e.Resets != 3 {
		t.Errorf("second event %+v", e)
	}
	s.set(ctl.Event{State: ctl.Ended, Exit: &ctl.Exit{Kind: ctl.PowerOff}})
	s.set(ctl.Event{State: ctl.Running}) // too late
	if e := next(); e.State != ctl.Ended || e.Exit.Kind != ctl.PowerOff {
		t.Errorf("last event %+v", e)
	}
}

func TestConsoleReaders(t *testing.T) {
	s, path := startServer(t, &stubGuest{})
	fmt.Fprint(s.console, "past ")
	attach := func() *ctl.Conn {
		c, err := ctl.Dial(t.Context(), path, "m")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	c := attach()
	r, err := c.Do(ctl.OpConsole)
	if err != nil || r.History != 5 {
		t.Fatalf("attach: %+v, %v", r, err)
	}
	// One that does not read is cut off, and holds nobody up.
	slow := attach()
	if _, err := slow.Do(ctl.OpConsole); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(s.console, "present ")
	b := make([]byte, 13)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "past present " {
		t.Fatalf("read %q, %v", b, err)
	}
	go io.Copy(io.Discard, c)
	line := bytes.Repeat([]byte("x"), 16<<10)
	for range 4 * backlog / len(line) {
		s.console.Write(line)
		time.Sleep(time.Millisecond)
	}
	slow.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := io.Copy(io.Discard, slow); err != nil || n >= 4*backlog {
		t.Errorf("the slow reader got %d bytes, %v", n, err)
	}
	for i := range maxReaders {
		if _, err := attach().Do(ctl.OpConsole); err != nil {
			if i < maxReaders-2 {
				t.Errorf("reader %d: %v", i, err)
			}
			return
		}
	}
	t.Error("there is no bound on readers")
}

// TestStalledGuest: where a guest reads nothing, who typed much and hung up is let
// go, and the next is heard when the guest reads again.
func TestStalledGuest(t *testing.T) {
	s, path := startServer(t, &stubGuest{})
	s.console.slow = 20 * time.Millisecond
	attach := func() *ctl.Conn {
		t.Helper()
		c, err := ctl.Dial(t.Context(), path, "m")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Do(ctl.OpConsole); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for range 2 * maxReaders {
		c := attach()
		c.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write(bytes.Repeat([]byte("typed "), 50<<10)); err != nil {
			t.Fatal(err)
		}
		c.Close()
		for range 2000 {
			s.console.mu.Lock()
			n := len(s.console.readers)
			s.console.mu.Unlock()
			if n == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	c := attach()
	defer c.Close()
	buf := make([]byte, 64<<10)
	for heard := ""; !strings.HasSuffix(heard, "now"); {
		if _, err := c.Write([]byte("now")); err != nil {
			t.Fatal(err)
		}
		n, err := s.console.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		heard = string(buf[:n])
	}
}

// TestHangUp: clients that come and go in the middle of anything leave nothing.
func TestHangUp(t *testing.T) {
	g := &stubGuest{pause: make(chan struct{})}
	_, path := startServer(t, g)
	for _, op := range []ctl.Op{"", ctl.OpPause, ctl.OpWatch, ctl.OpConsole} {
		for range 20 {
			nc, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			if op != "" {
				ctl.WriteFrame(nc, ctl.Request{Op: op})
			}
			nc.Close()
		}
	}
	close(g.pause)
	var err error
	for range 1000 { // those that hung up are let go one after the other
		if _, err = ctl.Call(t.Context(), path, "m", ctl.OpStatus); err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("after many hung up: %v", err)
}

// FuzzServer: whatever a client sends, the server answers it or hangs up, and
// still serves the next.
func FuzzServer(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x0e{\"op\":\"pause\"}\x00\x00\x00\x0e{\"op\":\"stats\"}"))
	f.Add([]byte("\x00\x00\x00\x10{\"op\":\"console\"}typed"))
	f.Add([]byte("\x00\x00\x00\x0e{\"op\":\"watch\"}more"))
	f.Add([]byte("\xff\xff\xff\xff"))
	s, path := startServer(f, &stubGuest{})
	go io.Copy(io.Discard, s.console) // a guest that takes what is typed
	f.Fuzz(func(t *testing.T, in []byte) {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		go func() {
			c.Write(in)
			c.(*net.UnixConn).CloseWrite()
		}()
		if _, err := io.Copy(io.Discard, c); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the server neither answered nor hung up")
		}
		c.Close()
		if _, err := ctl.Call(context.Background(), path, "m", ctl.OpStatus); err != nil {
			t.Fatalf("the next client: %v", err)
		}
	})
}

func TestExitFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "exit")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	began := time.Now().UTC()
	if _, ok := ReadExit(path, "m", began); ok {
		t.Error("an empty file was read")
	}
	want := ctl.Exit{Machine: "m", Time: began.Add(time.Second), Kind: ctl.PowerOff, Resets: 1}
	if err := WriteExit(f, want); err != nil {
		t.Fatal(err)
	}
	if e, ok := ReadExit(path, "m", began); !ok || !e.Time.Equal(want.Time) || e.Kind != want.Kind {
		t.Errorf("read %+v, %v", e, ok)
	}
	if _, ok := ReadExit(path, "other", began); ok {
		t.Error("another machine's was read")
	}
	if _, ok := ReadExit(path, "m", began.Add(time.Minute)); ok {
		t.Error("an older run's was read")
	}
	fi, _ := f.Stat()
	for n := range fi.Size() {
		if err := f.Truncate(n); err != nil {
			t.Fatal(err)
		}
		if _, ok := ReadExit(path, "m", began); ok {
			t.Fatalf("the first %d bytes were read", n)
		}
		WriteExit(f, want)
	}
}
