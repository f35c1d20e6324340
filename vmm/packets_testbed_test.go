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

// TestPackets has datagrams of all sizes, whole and in fragments, cross the network
// device both ways while TCP does too, with what it offloads: every byte is
// compared. SKEP_SOAK has a million frames go each way.
func TestPackets(t *testing.T) {
	frames, limit := uint64(2000), 10*time.Minute
	if os.Getenv("SKEP_SOAK") != "" {
		frames, limit = 1_000_000, 6*time.Hour
	}
	g := start(t, vmm.Config{CPUs: 2, NICs: []vmm.NIC{{Tap: testnet.Tap(t, "pk0", "10.76.1.1/24"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}}}})
	nic, _, _ := strings.Cut(g.do("nets"), ":")
	// The guest's own queue must lose nothing: fq_codel takes a slow guest's for too long.
	g.do("write", "/proc/sys/net/core/default_qdisc", "pfifo_fast")
	g.do("net-up", nic, "10.76.1.2/24")
	g.do("udp-serve", "7")
	g.do("tcp-serve", "5001")
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
		if n.RxFrames >= frames && n.TxFrames >= frames {
			t.Logf("%d frames to the guest and %d from it in %v, %d dropped", n.RxFrames, n.TxFrames, time.Since(begin).Round(time.Second), n.RxDropped)
			break
		}
		if done := min(n.RxFrames, n.TxFrames); done >= told+frames/100 {
			told = done
			t.Logf("%d frames each way after %v", told, time.Since(begin).Round(time.Second))
		}
		if err := ctx.Err(); err != nil {
			t.Fatalf("%d frames to the guest, %d from it: %v", n.RxFrames, n.TxFrames, err)
		}
		const count = 1000
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
			if theirs, ours, _, err := testguest.SendTCP("10.76.1.2:5001", 1<<20+8*round, round); err != nil || theirs != ours {
				t.Errorf("TCP: the guest has %s, sent was %s: %v", theirs, ours, err)
			}
		})
		sides.Wait()
		if t.Failed() {
			return
		}
	}
}
