// SPDX-License-Identifier: BSD-2-Clause

package testguest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// What a connection does is its first 17 bytes: an operation and two numbers.
const (
	opSend = 's' // length, unused: sum it, answer the sum
	opTrip = 'r' // rounds, size: answer each with itself
)

// maxTrip bounds a round, bytes.
const maxTrip = 1 << 20

// ServeTCP answers SendTCP and TripTCP until the listener is closed; what goes
// wrong in a connection is told.
func ServeTCP(l net.Listener, tell func(error)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if err := answerTCP(c); err != nil && !errors.Is(err, io.EOF) {
				tell(err)
			}
		}()
	}
}

func answerTCP(c net.Conn) error {
	r := bufio.NewReaderSize(c, 256<<10)
	var h [17]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return err
	}
	first, second := binary.BigEndian.Uint64(h[1:]), binary.BigEndian.Uint64(h[9:])
	switch h[0] {
	case opSend:
		var sum Sum
		buf := make([]byte, 256<<10)
		for first > 0 {
			p := buf[:min(first, uint64(len(buf)))]
			if _, err := io.ReadFull(r, p); err != nil {
				return err
			}
			sum.Add(p)
			first -= uint64(len(p))
		}
		_, err := fmt.Fprintln(c, sum)
		return err
	case opTrip:
		if second > maxTrip {
			return fmt.Errorf("a round of %d bytes", second)
		}
		buf := make([]byte, second)
		for range first {
			if _, err := io.ReadFull(r, buf); err != nil {
				return err
			}
			if _, err := c.Write(buf); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("unknown operation %q", h[0])
}

func dialTCP(address string, op byte, first, second uint64) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", address, time.Minute)
	if err != nil {
		return nil, err
	}
	h := []byte{op}
	h = binary.BigEndian.AppendUint64(h, first)
	h = binary.BigEndian.AppendUint64(h, second)
	if _, err := c.Write(h); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// SendTCP sends n bytes of the Pattern to a ServeTCP; the receiver's Sum of what
// came, ours, and how long it took.
func SendTCP(address string, n, seed uint64) (theirs, ours string, took time.Duration, err error) {
	begin := time.Now()
	c, err := dialTCP(address, opSend, n, 0)
	if err != nil {
		return "", "", 0, err
	}
	defer c.Close()
	var sum Sum
	buf := make([]byte, 256<<10)
	for offset := uint64(0); offset < n; {
		p := buf[:min(n-offset, uint64(len(buf)))]
		Pattern(p, seed, offset)
		sum.Add(p)
		if _, err := c.Write(p); err != nil {
			return "", "", 0, err
		}
		offset += uint64(len(p))
	}
	theirs, err = bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "", "", 0, err
	}
	return strings.TrimSpace(theirs), sum.String(), time.Since(begin), nil
}

// TripTCP sends a message to a ServeTCP and awaits it back, rounds times.
func TripTCP(address string, rounds, size uint64) (time.Duration, error) {
	c, err := dialTCP(address, opTrip, rounds, size)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	buf := make([]byte, size)
	Pattern(buf, 1, 0)
	begin := time.Now()
	for range rounds {
		if _, err := c.Write(buf); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return 0, err
		}
	}
	return time.Since(begin), nil
}
