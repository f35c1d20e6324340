// SPDX-License-Identifier: BSD-2-Clause

package net_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testseed"
	vnet "github.com/skepvm/skep/vmm/virtio/net"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

const (
	everything = vnet.Csum | vnet.TSO4 | vnet.TSO6 | vnet.ECN | vnet.UFO | vnet.USO4 | vnet.USO6
	// Feature bits of offloads: the guest's, the host's.
	csumBits    = 1<<0 | 1<<1
	segmentBits = 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14 | 1<<54 | 1<<55 | 1<<56
)

// TestMillionFrames has a million frames go each way at the same time, of all sizes and
// offloads, through rings of every make, while the device pauses now and then:
// each arrives once, in order, and every byte of it is compared. SKEP_SEED
// repeats a run.
func TestMillionFrames(t *testing.T) {
	const rounds = 16 // all there are of four that are on or off
	frames := 1_000_000
	if (raceEnabled || testing.Short()) && os.Getenv("SKEP_SOAK") == "" {
		frames = 50_000
	}
	seed := testseed.Get(t)
	rnd := rand.New(rand.NewPCG(seed, 0))
	pool := make([]byte, 1<<20)
	for i := 0; i < len(pool); i += 8 {
		binary.LittleEndian.PutUint64(pool[i:], rnd.Uint64())
	}
	offers := rnd.Perm(rounds)
	sizes := []int{8, 32, 64, 128, 256, 256, 512, 1024}
	rings := [2][]int{rnd.Perm(rounds), rnd.Perm(rounds)}
	sent, got := make([]uint64, len(kinds)), make([]uint64, len(kinds))
	begin := time.Now()
	for i := range rounds {
		r := &round{
			seed: [2]uint64{seed, uint64(i)}, pool: pool, frames: frames / rounds,
			features: 1<<15*uint64(i&1) | 1<<28*uint64(i>>1&1) | 1<<29*uint64(i>>2&1),
			bells:    i&8 != 0,
			wire:     []vnet.Offload{everything, everything, vnet.Csum | vnet.TSO4, 0}[offers[i]%4],
			rings:    [2]int{sizes[rings[0][i]%len(sizes)], sizes[rings[1][i]%len(sizes)]},
			buffer:   vnet.MaxFrame,
		}
		r.features |= []uint64{csumBits | segmentBits, csumBits | segmentBits, csumBits | rnd.Uint64()&segmentBits, 0}[offers[i]/4]
		if i&1 != 0 {
			r.buffer = []int{64, 300, 1536, 1536, 4096}[rnd.IntN(5)]
		}
		name := fmt.Sprintf("%d: features %#x, rings %d, buffers %d", i, r.features, r.rings, r.buffer)
		if !t.Run(name, r.run) {
			return
		}
		for k := range kinds {
			sent[k] += r.sent.made[k]
			got[k] += r.got.made[k]
		}
	}
	for k, n := range kinds {
		if got[k] == 0 || sent[k] == 0 && n.tx != never {
			t.Errorf("of kind %+v, %d frames to the guest and %d from it", n, got[k], sent[k])
		}
	}
	t.Logf("%d frames each way in %v; by kind of header %d to the guest, %d from it", frames, time.Since(begin).Round(time.Millisecond), got, sent)
}

// round is one device, its driver and its far end.
type round struct {
	seed     [2]uint64
	pool     []byte
	frames   int
	features uint64
	bells    bool
	wire     vnet.Offload
	rings    [2]int
	buffer   int // the size of receive buffers

	t               *testing.T
	ctx             context.Context
	cancel          context.CancelFunc
	dev             *vnet.Device
	d               *vt.Driver
	qs              [2]*vt.VirtQueue
	far             *os.File
	inward, outward *lane
	limit           int    // the largest frame to the guest
	sent, got       source // as they were at the end
}

// fail ends the round.
func (r *round) fail(format string, args ...any) {
	if r.ctx.Err() == nil {
		r.t.Errorf(format, args...)
	}
	r.cancel()
}

// in and out make the frames to the guest and from it.
func (r *round) in() *source {
	return newSource([2]uint64{r.seed[0], r.seed[1] | 1<<32}, r.pool, r.limit, func(k int) bool { return r.d.Features&kinds[k].rx == kinds[k].rx })
}

func (r *round) out() *source {
	return newSource([2]uint64{r.seed[0], r.seed[1] | 2<<32}, r.pool, largest, func(k int) bool { return r.d.Features&kinds[k].tx == kinds[k].tx })
}

// buffers is how many of the guest's a frame of n bytes with header takes.
func (r *round) buffers(n int) int { return (n + r.buffer - 1) / r.buffer }

// window bounds what is in the socket on its way from the guest, where a frame
// without room is lost; cost is what one of n bytes may take of it.
const window = 384 << 10

func cost(n int) int { return 2*n + 1536 }

func (r *round) run(t *testing.T) {
	r.t = t
	r.ctx, r.cancel = context.WithCancel(t.Context())
	defer r.cancel()
	b, far := pair(t, r.wire)
	r.far = far
	far.SetDeadline(time.Time{})
	dev, err := vnet.New(vnet.Config{Backend: b, MAC: mac, MTU: 65535, QueueSize: uint16(max(r.rings[0], r.rings[1], 64))})
	if err != nil {
		t.Fatal(err)
	}
	r.dev = dev
	r.d = vt.Attach(vt.NewMachine(t, 64<<20, r.bells), dev)
	if !r.d.Negotiate(r.features) {
		t.Fatalf("device refused features %#x", r.d.Features)
	}
	for i := range r.qs {
		r.qs[i] = r.d.NewQueue(i, r.rings[i])
		r.qs[i].Enable()
	}
	r.d.DriverOK()
	g := r.guest(r.qs[0])
	buffers := g.fill()
	r.limit = min(largest, r.buffer*len(buffers)-vnet.HeaderSize)
	r.inward, r.outward = newLane(len(buffers), 0), newLane(window, window)
	context.AfterFunc(r.ctx, func() {
		r.inward.stop()
		r.outward.stop()
		far.SetDeadline(time.Unix(1, 0))
	})

	var all sync.WaitGroup
	all.Go(r.send)
	all.Go(func() { r.receive(g, buffers) })
	all.Go(r.farSend)
	all.Go(r.farReceive)
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	r.pause(done)
	if t.Failed() {
		return
	}

	if err := r.d.Dev.Pause(); err != nil {
		t.Error(err)
	}
	n := uint64(r.frames)
	if c, want := dev.Counters(), (vnet.Counters{RxFrames: n, RxBytes: r.got.bytes, TxFrames: n, TxBytes: r.sent.bytes}); c != want {
		t.Errorf("counted %+v, want %+v", c, want)
	}
	for _, q := range r.qs {
		if head, n, ok := q.Poll(); ok {
			t.Errorf("queue %d: chain %d with %d bytes too many", q.Index, head, n)
		}
	}
	far.SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, err := far.Read(make([]byte, 1)); err == nil {
		t.Errorf("from the guest: a frame too many, of %d bytes or more", n)
	}
}

// pause lets the device pause now and then until done, and sees that frames move
// in between.
func (r *round) pause(done <-chan struct{}) {
	rnd := rand.New(rand.NewPCG(r.seed[0], r.seed[1]|3<<32))
	var moved, next uint64
	at := time.Now()
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Millisecond):
		}
		n := r.inward.frames.Load() + r.outward.frames.Load()
		if n != moved {
			moved, at = n, time.Now()
		} else if time.Since(at) > vt.Patience {
			r.fail("nothing moves: the guest has %d frames, the far end %d, used indices %d and %d, status %#x, counted %+v", r.inward.frames.Load(),
				r.outward.frames.Load(), r.qs[0].UsedIdx(), r.qs[1].UsedIdx(), r.d.Get(vt.DeviceStatus), r.dev.Counters())
			<-done
			return
		}
		if n < next {
			continue // not by the clock: a resume would wake what sleeps for want of a wake-up
		}
		next = n + rnd.Uint64N(2000)
		if err := r.d.Dev.Pause(); err != nil {
			r.fail("%v", err)
		}
		used := [2]uint16{r.qs[0].UsedIdx(), r.qs[1].UsedIdx()}
		time.Sleep(time.Duration(rnd.IntN(100)) * time.Microsecond)
		if now := [2]uint16{r.qs[0].UsedIdx(), r.qs[1].UsedIdx()}; now != used {
			r.fail("used indices went from %d to %d in a pause", used, now)
		}
		if err := r.d.Dev.Resume(); err != nil {
			r.fail("%v", err)
		}
	}
}

// farSend sends frames to the guest as far as it has buffers for them.
func (r *round) farSend() {
	s := r.in()
	buf := make([]byte, vnet.MaxFrame)
	rnd := rand.New(rand.NewPCG(r.seed[0], r.seed[1]|4<<32))
	for i := range r.frames {
		s.next()
		if !r.inward.take(r.buffers(s.len())) {
			return
		}
		s.read(0, buf[:s.len()])
		binary.LittleEndian.PutUint16(buf[vnet.HeaderSize-2:], uint16(rnd.Uint32())) // not ours to say
		if _, err := r.far.Write(buf[:s.len()]); err != nil {
			r.fail("to the guest: frame %d: %v", i, err)
			return
		}
		// A wake-up that was lost shows where nothing follows.
		if rnd.IntN(64) == 0 && !r.inward.drain() {
			return
		}
	}
}

// farReceive checks the frames from the guest.
func (r *round) farReceive() {
	s := r.out()
	buf := make([]byte, vnet.MaxFrame+1)
	for i := range r.frames {
		s.next()
		n, err := r.far.Read(buf)
		if err != nil || n != s.len() || !s.equal(0, buf[:n]) {
			r.fail("from the guest: frame %d of %d bytes: %d came or they differ: %v", i, s.len(), n, err)
			return
		}
		r.outward.frames.Add(1)
		r.outward.give(cost(n))
	}
}
