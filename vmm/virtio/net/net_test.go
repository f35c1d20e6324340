// SPDX-License-Identifier: BSD-2-Clause

package net_test

import (
	"bytes"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	vnet "github.com/skepvm/skep/vmm/virtio/net"
	vt "github.com/skepvm/skep/vmm/virtio/virtiotest"
)

var mac = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// pair makes a wire and its far end.
func pair(t testing.TB, can vnet.Offload) (vnet.Backend, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		// The far end is a polled file for the sake of its deadline.
		if err := unix.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20); err != nil {
			t.Fatal(err)
		}
	}
	b, err := vnet.NewSocket(os.NewFile(uintptr(fds[0]), "near"), can)
	if err != nil {
		t.Fatal(err)
	}
	far := os.NewFile(uintptr(fds[1]), "far")
	t.Cleanup(func() { far.Close() })
	far.SetDeadline(time.Now().Add(vt.Patience))
	return b, far
}

func attach(t testing.TB, b vnet.Backend, doorbells bool) *vt.Driver {
	t.Helper()
	dev, err := vnet.New(vnet.Config{Backend: b, MAC: mac, MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	return vt.Attach(vt.NewMachine(t, 64<<20, doorbells), dev)
}

func frame(n int, seed byte) []byte {
	f := make([]byte, vnet.HeaderSize+n)
	for i := range n {
		f[vnet.HeaderSize+i] = seed + byte(i)
	}
	return f
}

func TestConfig(t *testing.T) {
	b, _ := pair(t, 0)
	d := attach(t, b, false)
	if got := d.ReadConfig(0, 14); !bytes.Equal(got, []byte{2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0xdc, 5, 0, 0}) {
		t.Errorf("config % x", got)
	}
	if d.Offered()&(1<<0|1<<1|1<<7|1<<11) != 0 {
		t.Errorf("offloads offered on a wire without: %#x", d.Offered())
	}
	b, _ = pair(t, vnet.Csum|vnet.TSO4|vnet.TSO6)
	d = attach(t, b, false)
	if want := uint64(1<<0 | 1<<1 | 1<<7 | 1<<8 | 1<<11 | 1<<12); d.Offered()&want != want {
		t.Errorf("offered %#x", d.Offered())
	}
	if d.Negotiate(1<<7 | 1<<15) {
		t.Error("took segmentation without checksums")
	}
}

func TestTransmit(t *testing.T) {
	b, far := pair(t, 0)
	d := attach(t, b, true)
	q := d.Start(^uint64(0), 64)[1]
	for i := range 200 {
		f := frame(60+i*7, byte(i))
		q.Do(q.Out(f[:5]), q.Out(f[5:vnet.HeaderSize+14]), q.Out(f[vnet.HeaderSize+14:]))
		got := make([]byte, 70000)
		n, err := far.Read(got)
		if err != nil || !bytes.Equal(got[:n], f) {
			t.Fatalf("frame %d: %d bytes, %v", i, n, err)
		}
	}
	// What is no frame is dropped, and the queue lives on.
	q.Do(q.Out(make([]byte, vnet.HeaderSize)))
	q.Do(q.Out(make([]byte, 3)))
	q.Do(q.Out(make([]byte, vnet.MaxFrame)), q.Out(make([]byte, 1)))
	q.Do(q.In(2000))
	q.Do(q.Out(frame(60, 1)))
	if n, err := far.Read(make([]byte, 100)); n != vnet.HeaderSize+60 || err != nil {
		t.Errorf("after bad frames: %d, %v", n, err)
	}
}

func TestCounters(t *testing.T) {
	b, far := pair(t, 0)
	dev, err := vnet.New(vnet.Config{Backend: b, MAC: mac})
	if err != nil {
		t.Fatal(err)
	}
	d := vt.Attach(vt.NewMachine(t, 64<<20, true), dev)
	qs := d.Start(1<<15, 64)
	for range 3 {
		qs[1].Do(qs[1].Out(frame(60, 1)))
	}
	qs[1].Do(qs[1].Out(make([]byte, 3)))
	qs[0].Publish(qs[0].Chain(qs[0].In(2000)))
	qs[0].Kick()
	if _, err := far.Write(frame(100, 1)); err != nil {
		t.Fatal(err)
	}
	qs[0].Wait()
	want := vnet.Counters{RxFrames: 1, RxBytes: 100, TxFrames: 3, TxBytes: 180, TxDropped: 1}
	if got := dev.Counters(); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

func TestReceive(t *testing.T) {
	const mrg = 1 << 15
	for name, c := range map[string]struct {
		features uint64
		buf      int
	}{
		"merged":   {mrg, 1536},
		"tiny":     {mrg | 1<<29, 100},
		"big":      {1 << 29, vnet.MaxFrame},
		"indirect": {1 << 28, vnet.MaxFrame},
	} {
		t.Run(name, func(t *testing.T) {
			b, far := pair(t, 0)
			d := attach(t, b, true)
			q := d.Start(c.features, 256)[0]
			bufs := map[uint32][]vt.VirtqDesc{}
			post := func() {
				descs := []vt.VirtqDesc{q.In(c.buf)}
				if c.features&(1<<28) != 0 {
					descs = []vt.VirtqDesc{q.In(7), q.In(c.buf - 7)}
					h := q.IndirectChain(descs...)
					bufs[uint32(h)] = descs
					q.Publish(h)
					return
				}
				h := q.Chain(descs...)
				bufs[uint32(h)] = descs
				q.Publish(h)
			}
			count := 256
			if c.buf > 4096 {
				count = 32
			}
			for range count {
				post()
			}
			q.Kick()
			for i := range 60 {
				f := frame(60+i*100, byte(i))
				if _, err := far.Write(f); err != nil {
					t.Fatal(err)
				}
				var got []byte
				var total, seen int
				for total = 1; seen < total; seen++ {
					h, n := q.Wait()
					for _, v := range bufs[h] {
						k := min(int(n), int(v.Len))
						got = append(got, d.M.Read(v.Addr, k)...)
						n -= uint32(k)
					}
					if seen == 0 {
						total = int(got[10]) | int(got[11])<<8
					}
					if i < 25 && c.buf > 4096 || c.buf <= 4096 {
						post()
					}
				}
				q.Kick()
				if want := (len(f) + c.buf - 1) / c.buf; total != want {
					t.Fatalf("frame of %d bytes in %d buffers, want %d", len(f), total, want)
				}
				if !bytes.Equal(got[12:], f[12:]) {
					t.Fatalf("frame %d differs", i)
				}
				if i == 20 { // buffers that were taken ahead survive a pause
					d.Dev.Pause()
					d.Dev.Resume()
				}
				if c.buf > 4096 && i == 50 {
					break
				}
			}
		})
	}
}

// Frames that find no buffers wait in the wire or are dropped, and the device
// goes on when there are buffers again.
func TestReceiveStarved(t *testing.T) {
	b, far := pair(t, 0)
	d := attach(t, b, false)
	q := d.Start(1<<15, 64)[0]
	for range 10 {
		far.Write(frame(100, 7))
	}
	in := q.In(50) // too small: the frame is dropped, not cut
	q.Send(q.Chain(in))
	time.Sleep(5 * time.Millisecond)
	if q.UsedIdx() != 0 {
		t.Error("a frame was cut")
	}
	in = q.In(2000)
	q.Send(q.Chain(in))
	far.Write(frame(100, 9))
	q.Wait()
	q.Wait()
	// The header and 38 bytes lie in the small buffer, the rest in the new one.
	if got := d.M.Read(in.Addr, 1)[0]; got != 9+38 {
		t.Errorf("the rest of the frame begins with %d", got)
	}
}

func TestPauseWhileReceiving(t *testing.T) {
	b, far := pair(t, 0)
	d := attach(t, b, true)
	q := d.Start(1<<15|1<<29, 64)[0]
	for range 64 {
		q.Publish(q.Chain(q.In(2000)))
	}
	q.Kick()
	for i := range 50 {
		d.Dev.Pause()
		far.Write(frame(60, byte(i)))
		if n := int(q.UsedIdx()); n != i {
			t.Fatalf("%d frames delivered, want %d, while paused", n, i)
		}
		d.Dev.Resume()
		q.Wait()
	}
	d.Reset()
	q = d.Start(1<<15, 64)[0]
	q.Send(q.Chain(q.In(2000)))
	far.Write(frame(60, 1))
	q.Wait()
}

func TestWireGone(t *testing.T) {
	b, far := pair(t, 0)
	d := attach(t, b, true)
	q := d.Start(1<<15, 64)[0]
	q.Send(q.Chain(q.In(2000)))
	far.Close()
	d.NeedsReset()
}

func TestLink(t *testing.T) {
	b, _ := pair(t, 0)
	dev, err := vnet.New(vnet.Config{Backend: b, MAC: mac})
	if err != nil {
		t.Fatal(err)
	}
	d := vt.Attach(vt.NewMachine(t, 8<<20, true), dev)
	d.Start(1<<16, 64)
	dev.SetLink(false)
	<-d.Config.C
	if d.ReadConfig(6, 1)[0] != 0 {
		t.Error("link is up")
	}
	dev.SetLink(false)
	dev.SetLink(true)
	<-d.Config.C
	if d.ReadConfig(6, 1)[0] != 1 || d.Config.Count() != 2 {
		t.Error("link is down, or told twice")
	}
}

func TestBadConfig(t *testing.T) {
	b, _ := pair(t, 0)
	defer b.Close()
	for _, c := range []vnet.Config{
		{}, {Backend: b}, {Backend: b, MAC: net.HardwareAddr{1, 0, 0, 0, 0, 1}}, {Backend: b, MAC: mac[:5]},
		{Backend: b, MAC: mac, MTU: 67}, {Backend: b, MAC: mac, QueueSize: 100}, {Backend: b, MAC: mac, QueueSize: 2048},
	} {
		if _, err := vnet.New(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}
