// SPDX-License-Identifier: BSD-2-Clause

package testguest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"time"
)

// EchoUDP sends every datagram back to where it came from, until the socket is
// closed.
func EchoUDP(c net.PacketConn) error {
	if u, ok := c.(*net.UDPConn); ok {
		if err := u.SetReadBuffer(udpBuffer); err != nil {
			return err
		}
	}
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		// One that finds no room is lost, as datagrams are: it comes again.
		_, _ = c.WriteTo(buf[:n], from)
	}
}

const (
	udpHeader = 8               // the number, and with it the content, of a datagram
	udpWindow = 24              // under way at once: a socket's buffer counts whole pages
	udpBuffer = 1 << 20         // of a socket, or as much as the kernel gives
	udpLost   = 5 * time.Second // an emulated guest is slow
	// maxUDP is above what one frame carries, so that some are fragmented.
	maxUDP = 6 << 10
)

// udpSize is how long the datagram of a number is: short, a frame, fragments.
func udpSize(seed, number uint64) int {
	r := rand.New(rand.NewPCG(seed, number))
	switch r.IntN(8) {
	case 0:
		return udpHeader
	case 1, 2:
		return udpHeader + r.IntN(64)
	case 3:
		return maxUDP - r.IntN(4<<10)
	}
	return udpHeader + r.IntN(1465)
}

// datagram writes the datagram of a number into b and returns it.
func datagram(b []byte, seed, number uint64) []byte {
	n := udpSize(seed, number)
	Pattern(b[:(n+7)&^7], seed, number<<16)
	binary.BigEndian.PutUint64(b, number)
	return b[:n]
}

// PlayUDP sends count datagrams of mixed sizes to an EchoUDP and compares what
// comes back, each byte of it. Those that are lost are sent again, and counted:
// more than one in a hundred is an error, and so is anything that was not sent.
func PlayUDP(address string, count, seed uint64) (lost uint64, err error) {
	return playUDP(address, count, seed, udpLost)
}

func playUDP(address string, count, seed uint64, patience time.Duration) (lost uint64, err error) {
	c, err := net.Dial("udp", address)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.(*net.UDPConn).SetReadBuffer(udpBuffer); err != nil {
		return 0, err
	}
	var out, want, in [64 << 10]byte
	sent := map[uint64]time.Time{} // under way
	send := func(n uint64) error {
		sent[n] = time.Now()
		_, err := c.Write(datagram(out[:], seed, n))
		return err
	}
	for next := uint64(0); next < count || len(sent) > 0; {
		for ; next < count && len(sent) < udpWindow; next++ {
			if err := send(next); err != nil {
				return lost, err
			}
		}
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return lost, err
		}
		n, err := c.Read(in[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			for number, at := range sent {
				if time.Since(at) < patience {
					continue
				}
				if lost++; lost > 50+count/100 {
					return lost, fmt.Errorf("%d of %d datagrams were lost", lost, next)
				}
				if err := send(number); err != nil {
					return lost, err
				}
			}
			continue
		}
		if err != nil {
			return lost, err
		}
		if n < udpHeader {
			return lost, fmt.Errorf("a datagram of %d bytes", n)
		}
		number := binary.BigEndian.Uint64(in[:])
		if number >= next {
			return lost, fmt.Errorf("datagram %d was never sent", number)
		}
		if got, want := in[:n], datagram(want[:], seed, number); !bytes.Equal(got, want) {
			return lost, fmt.Errorf("datagram %d has %d bytes and came back otherwise, with %d", number, len(want), n)
		}
		delete(sent, number) // a second echo of one that was taken for lost is none
	}
	return lost, nil
}
