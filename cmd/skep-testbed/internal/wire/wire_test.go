// SPDX-License-Identifier: BSD-2-Clause

package wire

import (
	"bytes"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

func TestFrames(t *testing.T) {
	a, b := net.Pipe()
	left, right := NewConn(a), NewConn(b)
	defer left.Close()
	defer right.Close()
	sent := bytes.Repeat([]byte("0123456789"), 20000) // several frames
	go func() {
		_, _ = left.Writer(KindStdout).Write(sent)
		_ = left.WriteJSON(KindExit, Exit{Code: 3})
	}()
	var got []byte
	for {
		kind, body, err := right.Read()
		if err != nil {
			t.Fatal(err)
		}
		if kind == KindExit {
			if string(body) != `{"code":3}` {
				t.Errorf("exit %s", body)
			}
			break
		}
		got = append(got, body...)
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("%d bytes, want %d", len(got), len(sent))
	}
	if err := left.Write(KindStdout, make([]byte, MaxFrame+1)); err == nil {
		t.Error("a frame that is too long was sent")
	}
}

type oneWay struct{ io.Reader }

func (oneWay) Write(p []byte) (int, error) { return len(p), nil }
func (oneWay) Close() error                { return nil }

func TestBadFrames(t *testing.T) {
	for name, input := range map[string]string{
		"too long": "o\xff\xff\xff\xff",
		"cut":      "o\x00\x00\x00\x05ab",
		"header":   "o\x00",
	} {
		if _, _, err := NewConn(oneWay{strings.NewReader(input)}).Read(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAwaitHail(t *testing.T) {
	r := strings.NewReader("noise \x00skep\x00skep-testbed ag" + Hail + "rest")
	if err := AwaitHail(r); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "rest" {
		t.Errorf("after the hail: %q", rest)
	}
	if err := AwaitHail(strings.NewReader("noise")); err == nil {
		t.Error("no hail, no error")
	}
}

// queue is a port that loses what does not fit, as a terminal's input queue.
type queue struct {
	io.ReadWriteCloser
	held *atomic.Int64
	most *atomic.Int64
}

func (q queue) Write(p []byte) (int, error) {
	n := q.held.Add(int64(len(p)))
	for {
		m := q.most.Load()
		if n <= m || q.most.CompareAndSwap(m, n) {
			break
		}
	}
	return q.ReadWriteCloser.Write(p)
}

type drain struct {
	io.ReadWriteCloser
	held *atomic.Int64
}

func (d drain) Read(p []byte) (int, error) {
	n, err := d.ReadWriteCloser.Read(p)
	d.held.Add(-int64(n))
	return n, err
}

func fdFile(t *testing.T, fd int) *os.File {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { f.Close() })
	return f
}

func TestPaced(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	host, port := fdFile(t, fds[0]), fdFile(t, fds[1])
	var held, most atomic.Int64
	sender := NewPaced(queue{host, &held, &most}, PacedWindow)
	receiver := NewPaced(drain{port, &held}, 0)
	sent := bytes.Repeat([]byte("abcdefgh"), 64<<10)
	var wg sync.WaitGroup
	wg.Go(func() { // the sender's own reading takes the acknowledgements in
		got := make([]byte, len("answer"))
		if _, err := io.ReadFull(sender, got); err != nil || string(got) != "answer" {
			t.Errorf("answer: %q, %v", got, err)
		}
	})
	wg.Go(func() {
		if n, err := sender.Write(sent); err != nil {
			t.Errorf("sent %d: %v", n, err)
		}
	})
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(receiver, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("received wrong: %v", err)
	}
	if _, err := receiver.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if most.Load() > PacedWindow+PacedWindow/8 {
		t.Errorf("%d bytes were under way, want hardly more than %d", most.Load(), PacedWindow)
	}
	sender.Close()
	if _, err := sender.Write(sent); err == nil {
		t.Error("a closed stream takes data")
	}
	receiver.Close()
}

func TestPacedNoise(t *testing.T) {
	p := NewPaced(oneWay{strings.NewReader("d\x00\x01xgarbage")}, 0)
	b := make([]byte, 8)
	if n, err := p.Read(b); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if _, err := p.Read(b); err == nil || !strings.Contains(err.Error(), "lost") {
		t.Errorf("noise: %v", err)
	}
}

func TestSignalNames(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL, syscall.SIGUSR1} {
		if got, ok := SignalNamed(SignalName(s)); !ok || got != s {
			t.Errorf("%v becomes %v", s, got)
		}
	}
}
