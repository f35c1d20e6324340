// SPDX-License-Identifier: BSD-2-Clause

package console_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/virtio/console"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

type sink struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestBothWays(t *testing.T) {
	var out sink
	c := console.New(&out)
	m := vt.NewMachine(t, 16<<20, true)
	d := vt.Attach(m, c)
	qs := d.Start(^uint64(0), 0)
	qs[1].Do(qs[1].Out([]byte("hello ")), qs[1].Out([]byte("world\n")))
	vt.Eventually(t, "output", func() bool { return out.String() == "hello world\n" })
	in := qs[0].In(4)
	in2 := qs[0].In(100)
	qs[0].Send(qs[0].Chain(in))
	qs[0].Send(qs[0].Chain(in2))
	if _, err := io.WriteString(c, "typed"); err != nil {
		t.Fatal(err)
	}
	_, a := qs[0].Wait()
	_, b := qs[0].Wait()
	if got := string(m.Read(in.Addr, int(a))) + string(m.Read(in2.Addr, int(b))); got != "typed" {
		t.Errorf("the guest read %q", got)
	}
	c.Resize(132, 43)
	<-d.Config.C
	if got := d.ReadConfig(0, 4); !bytes.Equal(got, []byte{132, 0, 43, 0}) {
		t.Errorf("size % x", got)
	}
}

// A lot through both ways keeps its order.
func TestStream(t *testing.T) {
	var out sink
	c := console.New(&out)
	m := vt.NewMachine(t, 64<<20, true)
	d := vt.Attach(m, c)
	qs := d.Start(^uint64(0), 0)
	var want []byte
	for i := range 2000 {
		p := bytes.Repeat([]byte{byte(i)}, i%700+1)
		want = append(want, p...)
		qs[1].Do(qs[1].Out(p))
	}
	vt.Eventually(t, "output", func() bool { return len(out.String()) == len(want) })
	if out.String() != string(want) || c.Dropped() != 0 {
		t.Errorf("output differs, %d dropped", c.Dropped())
	}
	go c.Write(want)
	var got []byte
	buf := qs[0].In(3000)
	for len(got) < len(want) {
		qs[0].Send(qs[0].Chain(buf))
		_, n := qs[0].Wait()
		got = append(got, m.Read(buf.Addr, int(n))...)
	}
	if !bytes.Equal(got, want) {
		t.Error("input differs")
	}
}

// stuck is a reader that never reads.
type stuck chan struct{}

func (s stuck) Write(p []byte) (int, error) { <-s; return len(p), nil }

func TestStuckReader(t *testing.T) {
	s := make(stuck)
	c := console.New(s)
	m := vt.NewMachine(t, 64<<20, true)
	d := vt.Attach(m, c)
	q := d.Start(^uint64(0), 0)[1]
	p := make([]byte, 1<<20)
	begin := time.Now()
	for range 20 {
		q.Do(q.Out(p)) // the guest is never stopped for good
	}
	if took := time.Since(begin); took > vt.Patience/2 {
		t.Errorf("20 MiB to nobody took %v", took)
	}
	if c.Dropped() < 19<<20 {
		t.Errorf("only %d bytes dropped: the rest is kept somewhere", c.Dropped())
	}
	close(s)
	q.Do(q.Out([]byte("x")))
}

// A guest that does not read holds up the one who types, and growth is bounded;
// closing lets go.
func TestDeafGuest(t *testing.T) {
	c := console.New(nil)
	m := vt.NewMachine(t, 16<<20, true)
	d := vt.Attach(m, c)
	d.Start(^uint64(0), 0)
	done := make(chan error)
	go func() {
		_, err := c.Write(make([]byte, 10<<20))
		done <- err
	}()
	select {
	case <-done:
		t.Fatal("10 MiB were swallowed")
	case <-time.After(20 * time.Millisecond):
	}
	d.Dev.Pause()
	d.Dev.Resume()
	d.Reset()
	d.Dev.Close()
	if err := <-done; !errors.Is(err, console.ErrClosed) {
		t.Errorf("%v", err)
	}
}

// gated is a writer that waits for its gate.
type gated struct {
	sink
	gate chan struct{}
}

func (g *gated) Write(p []byte) (int, error) {
	<-g.gate
	return g.sink.Write(p)
}

// TestHalt: what the guest wrote has left the process when Halt returns, and no
// goroutine writes after it.
func TestHalt(t *testing.T) {
	out := &gated{gate: make(chan struct{})}
	d := vt.Attach(vt.NewMachine(t, 16<<20, true), console.New(out))
	qs := d.Start(^uint64(0), 0)
	want := strings.Repeat("0123456789abcdef", 1024)
	qs[1].Do(qs[1].Out([]byte(want)))
	time.AfterFunc(20*time.Millisecond, func() { close(out.gate) })
	d.Dev.Halt()
	if got := out.String(); got != want {
		t.Errorf("%d bytes are written, want %d", len(got), len(want))
	}
}
