// SPDX-License-Identifier: BSD-2-Clause

package ctl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	want := Exit{Machine: "m", Kind: TripleFault, Detail: strings.Repeat("x", 3*maxDetail), Resets: 2}.Clip()
	if err := WriteFrame(&b, Event{State: Ended, Exit: &want}); err != nil {
		t.Fatal(err)
	}
	b.WriteString("what follows")
	var e Event
	if err := ReadFrame(&b, &e); err != nil {
		t.Fatal(err)
	}
	if *e.Exit != want || b.String() != "what follows" {
		t.Errorf("read %+v and left %q", e.Exit, b.String())
	}
	if err := WriteFrame(io.Discard, Response{Error: strings.Repeat("x", MaxFrame)}); err == nil {
		t.Error("a frame that is too long was written")
	}
}

func TestBadFrames(t *testing.T) {
	head := func(n uint32, rest string) string {
		return string(binary.BigEndian.AppendUint32(nil, n)) + rest
	}
	for name, in := range map[string]string{
		"nothing":      "",
		"half a head":  "\x00\x00",
		"no body":      head(5, ""),
		"half a body":  head(5, "{"),
		"too long":     head(MaxFrame+1, strings.Repeat(" ", MaxFrame+1)),
		"far too long": head(0xffffffff, ""),
		"no JSON":      head(3, "abc"),
		"wrong type":   head(7, `{"op":1`+"}"),
	} {
		var r Request
		if err := ReadFrame(strings.NewReader(in), &r); err == nil {
			t.Errorf("%s: read %+v", name, r)
		}
	}
}

// serveHello answers one connection with the hello that is given.
func serveHello(t *testing.T, hello any) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		WriteFrame(c, hello)
		var req Request
		if ReadFrame(c, &req) == nil {
			WriteFrame(c, Response{Error: "no"})
		}
	}()
	return path
}

func TestDial(t *testing.T) {
	for name, hello := range map[string]Hello{
		"of another machine": {Version: Version, Machine: "other"},
		"of another version": {Version: Version + 1, Machine: "m"},
	} {
		if c, err := Dial(t.Context(), serveHello(t, hello), "m"); err == nil {
			c.Close()
			t.Errorf("a hello %s was taken", name)
		}
	}
	path := serveHello(t, Hello{Version: Version, Machine: "m", Began: time.Now()})
	if _, err := Call(t.Context(), path, "m", OpPause); !errors.Is(err, ErrRefused) {
		t.Errorf("Call: %v", err)
	}
}

// FuzzReadFrame: whatever comes, reading ends with a frame or an error, and
// takes no more memory than a frame may have.
func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x0e{\"op\":\"pause\"}"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte("\x00\x00\x00\x02{}\x00\x00\x00\x02{}"))
	f.Add([]byte("\x00\x00\x00\x10[[[[[[[[[[[[[[[["))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		for {
			var req Request
			var before, after runtime.MemStats
			n := r.Len()
			if n > 1<<16 {
				runtime.ReadMemStats(&before)
			}
			err := ReadFrame(r, &req)
			if n > 1<<16 {
				runtime.ReadMemStats(&after)
				if after.TotalAlloc-before.TotalAlloc > 64*MaxFrame {
					t.Fatalf("%d bytes were allocated", after.TotalAlloc-before.TotalAlloc)
				}
			}
			if err != nil {
				return
			}
			if r.Len() >= n {
				t.Fatal("a frame took no bytes")
			}
			var b bytes.Buffer
			if err := WriteFrame(&b, req); err != nil {
				t.Fatalf("what was read cannot be written: %v", err)
			}
			var again Request
			if err := ReadFrame(&b, &again); err != nil {
				t.Fatalf("what was written cannot be read: %v", err)
			}
		}
	})
}
