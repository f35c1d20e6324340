// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && (linux || guests)

package vmm_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testguest"
)

func answer(c net.Conn) {
	defer c.Close()
	r := bufio.NewReaderSize(c, 256<<10)
	var h [17]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return
	}
	n, size := binary.BigEndian.Uint64(h[1:]), binary.BigEndian.Uint64(h[9:])
	buf := make([]byte, max(size, 64<<10))
	if h[0] == 's' {
		var sum testguest.Sum
		for n > 0 {
			p := buf[:min(n, uint64(len(buf)))]
			if _, err := io.ReadFull(r, p); err != nil {
				return
			}
			sum.Add(p)
			n -= uint64(len(p))
		}
		fmt.Fprintln(c, sum)
		return
	}
	for range n {
		if _, err := io.ReadFull(r, buf[:size]); err != nil {
			return
		}
		c.Write(buf[:size])
	}
}

// peer answers as the guest's tcp-serve does.
func peer(t testing.TB, addr string) string {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answer(c)
		}
	}()
	return l.Addr().String()
}

// sendTo sends the pattern to the guest's tcp-serve and returns the guest's sum.
func sendTo(t testing.TB, addr string, n, seed uint64) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h := binary.BigEndian.AppendUint64([]byte{'s'}, n)
	h = binary.BigEndian.AppendUint64(h, 0)
	c.Write(h)
	buf := make([]byte, 256<<10)
	for off := uint64(0); off < n; off += uint64(len(buf)) {
		testguest.Pattern(buf, seed, off)
		if _, err := c.Write(buf[:min(n-off, uint64(len(buf)))]); err != nil {
			t.Fatal(err)
		}
	}
	s, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(s)
}
