// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && (linux || guests)

package vmm_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testguest"
	"github.com/skepvm/skep/internal/testnet"
	"github.com/skepvm/skep/vmm"
)

// shapes are what a round of TestPackets takes in turn: the MTU, and how many
// segments TCP gives an interface at once. With one it leaves it nothing to do but
// the checksum, and each is a frame.
var shapes = []struct{ mtu, segments int }{
	{1500, 1}, {1500, 65535}, {576, 1}, {1280, 3}, {1500, 1}, {900, 7},
}

// TestPackets has datagrams of all sizes, whole and in fragments, cross the network
// device both ways while TCP does too, with much or little that it offloads: every
// byte is compared. SKEP_SOAK has a million frames go each way.
func TestPackets(t *testing.T) {
	frames, stream, limit := uint64(4000), uint64(256<<10), 10*time.Minute
	if os.Getenv("SKEP_SOAK") != "" {
		frames, stream, limit = 1_000_000, 2<<20, 6*time.Hour
	}
	g := start(t, vmm.Config{CPUs: 2, NICs: []vmm.NIC{{Tap: testnet.Tap(t, "pk0", "10.76.1.1/24"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}}}})
	nic, _, _ := strings.Cut(g.do("nets"), ":")
	// The guest's own queue must lose nothing: fq_codel takes a slow guest's for too long.
	g.do("write", "/proc/sys/net/core/default_qdisc", "pfifo_fast")
	g.do("net-up", nic, "10.76.1.2/24")
	g.do("udp-serve", "7")
	g.do("tcp-serve", "5001")
	server := testnet.Serve(t, "10.76.1.1:0")
	echo, err := net.ListenPacket("udp", "10.76.1.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() { _ = testguest.EchoUDP(echo) })
	defer all.Wait()
	defer echo.Close()
	begin, told := time.Now(), uint64(0)
	for round := uint64(0); ; round++ {
		n := g.m.Stats().NICs[0]
		if n.RxFrames >= frames && n.TxFrames >= frames && round >= uint64(len(shapes)) {
			t.Logf("%d frames to the guest and %d from it in %v, %d rounds, %d dropped", n.RxFrames, n.TxFrames, time.Since(begin).Round(time.Second), round, n.RxDropped)
			break
		}
		if done := min(n.RxFrames, n.TxFrames); done >= told+frames/100 {
			told = done
			t.Logf("%d frames each way after %v", told, time.Since(begin).Round(time.Second))
		}
		if err := ctx.Err(); err != nil {
			t.Fatalf("%d frames to the guest, %d from it: %v", n.RxFrames, n.TxFrames, err)
		}
		shape := shapes[round%uint64(len(shapes))]
		g.do("net-shape", nic, fmt.Sprint(shape.mtu), fmt.Sprint(shape.segments))
		testnet.Segments(t, "pk0", shape.segments)
		const count = 100
		length := stream + 8*round
		var sides sync.WaitGroup
		sides.Go(func() {
			if lost, err := testguest.PlayUDP("10.76.1.2:7", count, round); err != nil {
				t.Errorf("datagrams to the guest and back, seed %d: %v", round, err)
			} else if lost > 0 {
				t.Logf("seed %d: %d lost on the way to the guest and back", round, lost)
			}
		})
		sides.Go(func() {
			if lost, err := g.Do(ctx, "udp-play", echo.LocalAddr().String(), fmt.Sprint(count), fmt.Sprint(round+1<<32)); err != nil {
				t.Errorf("datagrams from the guest and back, seed %d: %v", round+1<<32, err)
			} else if lost != "0" {
				t.Logf("seed %d: %s lost on the way from the guest and back", round+1<<32, lost)
			}
		})
		sides.Go(func() {
			if theirs, ours, _, err := testguest.SendTCP("10.76.1.2:5001", length, round); err != nil || theirs != ours {
				t.Errorf("TCP to the guest: it has %s, sent was %s: %v", theirs, ours, err)
			}
		})
		sides.Go(func() {
			out, err := g.Do(ctx, "tcp-send", server, fmt.Sprint(length), fmt.Sprint(round))
			if f := strings.Fields(out); err != nil || len(f) != 3 || f[0] != f[1] {
				t.Errorf("TCP from the guest: %s: %v", out, err)
			}
		})
		sides.Wait()
		if t.Failed() {
			return
		}
	}
}
