// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && (linux || guests)

package skep

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testguest"
)

const peerMemory = 512 * MiB

// command has a guest do something, whoever runs it.
func command(b *testing.B, g *testguest.Client, what ...string) string {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.Context()), 10*time.Minute)
	defer cancel()
	s, err := g.Do(ctx, what...)
	if err != nil {
		b.Fatalf("%s: %v", strings.Join(what, " "), err)
	}
	return s
}

// rate is what a guest's count and nanoseconds come to, 1/s.
func rate(b *testing.B, answer string) float64 {
	b.Helper()
	f := strings.Fields(answer)
	if len(f) != 2 {
		b.Fatalf("the guest answers %q", answer)
	}
	n, _ := strconv.ParseFloat(f[0], 64)
	ns, err := strconv.ParseFloat(f[1], 64)
	if err != nil {
		b.Fatal(err)
	}
	return n / ns * 1e9
}

// blockModes are what a disk is measured by.
var blockModes = []struct {
	mode         string
	block, depth int
}{
	{"randread", 4096, 1}, {"randread", 4096, 32}, {"randwrite", 4096, 1}, {"randwrite", 4096, 32},
	{"read", 1 << 20, 4}, {"write", 1 << 20, 4},
}

// compare reports what ours and the peer's measure, and the ratio of the sums.
// Each figure is taken from either side in turn, three times, so that what else
// the host does weighs on both.
func compare(b *testing.B, peer, unit string, ours, theirs func() float64) {
	const rounds = 3
	var o, t float64
	for range rounds {
		o += ours()
		t += theirs()
	}
	b.ReportMetric(o/rounds, unit)
	b.ReportMetric(t/rounds, peer+"-"+unit)
	b.ReportMetric(o/t, "ratio")
	b.ReportMetric(0, "ns/op")
}

// side is a guest and its address, and the process of the other's, which stands
// still while this one is measured; 0: it does not.
type side struct {
	g     *testguest.Client
	addr  string
	other int
}

// alone is a measurement without the other: a guest that waits takes a share of
// an emulated processor.
func (s side) alone(b *testing.B, measure func() float64) func() float64 {
	if s.other == 0 {
		return measure
	}
	return func() float64 {
		b.Helper()
		if err := syscall.Kill(s.other, syscall.SIGSTOP); err != nil {
			b.Fatal(err)
		}
		defer func() {
			if err := syscall.Kill(s.other, syscall.SIGCONT); err != nil {
				b.Error(err)
			}
		}()
		return measure()
	}
}

// benchTCP compares TCP between the host, at an address that guests reach, and
// either guest, n bytes at a time.
func benchTCP(b *testing.B, peer, host string, n uint64, ours, theirs side) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go testguest.ServeTCP(l, func(error) {})
	for _, s := range []side{ours, theirs} {
		command(b, s.g, "tcp-serve", "5001")
	}
	b.Run("to-guest", func(b *testing.B) {
		f := func(s side) func() float64 {
			return s.alone(b, func() float64 {
				theirs, ours, took, err := testguest.SendTCP(net.JoinHostPort(s.addr, "5001"), n, 1)
				if err != nil || theirs != ours {
					b.Fatalf("checksums %s and %s: %v", theirs, ours, err)
				}
				return float64(n/MiB) / took.Seconds()
			})
		}
		compare(b, peer, "MiB/s", f(ours), f(theirs))
	})
	b.Run("from-guest", func(b *testing.B) {
		f := func(s side) func() float64 {
			return s.alone(b, func() float64 {
				f := strings.Fields(command(b, s.g, "tcp-send", l.Addr().String(), fmt.Sprint(n), "3"))
				if len(f) != 3 || f[0] != f[1] {
					b.Fatalf("checksums differ: %v", f)
				}
				ns, err := strconv.ParseFloat(f[2], 64)
				if err != nil {
					b.Fatal(err)
				}
				return float64(n/MiB) / ns * 1e9
			})
		}
		compare(b, peer, "MiB/s", f(ours), f(theirs))
	})
	b.Run("round-trips", func(b *testing.B) {
		f := func(s side) func() float64 {
			return s.alone(b, func() float64 {
				const n = 1000
				ns, err := strconv.ParseFloat(command(b, s.g, "tcp-rr", l.Addr().String(), fmt.Sprint(n), "64"), 64)
				if err != nil {
					b.Fatal(err)
				}
				return n / ns * 1e9
			})
		}
		compare(b, peer, "trips/s", f(ours), f(theirs))
	})
}
