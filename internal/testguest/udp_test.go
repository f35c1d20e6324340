// SPDX-License-Identifier: BSD-2-Clause

package testguest

import (
	"net"
	"strings"
	"testing"
	"time"
)

// echo serves datagrams by way of a change.
func echo(t *testing.T, change func(n int, p []byte) [][]byte) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		if change == nil {
			_ = EchoUDP(c)
			return
		}
		buf := make([]byte, 64<<10)
		for i := 0; ; i++ {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, p := range change(i, buf[:n]) {
				_, _ = c.WriteTo(p, from)
			}
		}
	}()
	return c.LocalAddr().String()
}

func TestPlayUDP(t *testing.T) {
	if lost, err := PlayUDP(echo(t, nil), 2000, 7); err != nil || lost > 0 {
		t.Errorf("%d lost, %v", lost, err)
	}
	twice := func(_ int, p []byte) [][]byte { return [][]byte{p, p} }
	if _, err := PlayUDP(echo(t, twice), 100, 7); err != nil {
		t.Errorf("echoes that come twice: %v", err)
	}
	some := func(i int, p []byte) [][]byte {
		if i == 5 {
			return nil
		}
		return [][]byte{p}
	}
	if lost, err := playUDP(echo(t, some), 40, 7, 300*time.Millisecond); err != nil || lost != 1 {
		t.Errorf("one lost: %d, %v", lost, err)
	}
	for name, c := range map[string]struct {
		change func(int, []byte) [][]byte
		want   string
	}{
		"a bit":  {func(i int, p []byte) [][]byte { p[len(p)-1] ^= 1; return [][]byte{p} }, "otherwise"},
		"length": {func(i int, p []byte) [][]byte { return [][]byte{append(p, 0)} }, "otherwise"},
		"number": {func(i int, p []byte) [][]byte { p[0] = 1; return [][]byte{p} }, "never sent"},
		"short":  {func(i int, p []byte) [][]byte { return [][]byte{p[:4]} }, "of 4 bytes"},
	} {
		if _, err := PlayUDP(echo(t, c.change), 40, 7); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
