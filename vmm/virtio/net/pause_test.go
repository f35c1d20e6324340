// SPDX-License-Identifier: BSD-2-Clause

package net_test

import (
	"testing"

	vnet "github.com/skepvm/skep/vmm/virtio/net"
)

// stopper is a wire whose first frame arrives just as the device is told to stop.
type stopper struct {
	vnet.Backend
	pause chan struct{} // closed when a frame is there
	told  chan struct{} // holds a token once the device has been told
	done  bool
}

func (s *stopper) ReadV(bufs [][]byte, wait bool) (int, error) {
	n, err := s.Backend.ReadV(bufs, wait)
	if err == nil && !s.done {
		s.done = true
		close(s.pause)
		<-s.told
	}
	return n, err
}

func (s *stopper) Interrupt() {
	s.Backend.Interrupt()
	select {
	case s.told <- struct{}{}:
	default:
	}
}

// A frame that wants more buffers than were taken ahead is delivered whole also
// when a pause begins under way.
func TestPauseWithLargeFrame(t *testing.T) {
	b, far := pair(t, 0)
	s := &stopper{Backend: b, pause: make(chan struct{}), told: make(chan struct{}, 1)}
	d := attach(t, s, true)
	q := d.Start(1<<15, 64)[0]
	for range 64 {
		q.Publish(q.Chain(q.In(100)))
	}
	q.Kick()
	if _, err := far.Write(frame(6000, 1)); err != nil {
		t.Fatal(err)
	}
	<-s.pause
	if err := d.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	if n := q.UsedIdx(); n != 61 {
		t.Errorf("%d buffers used, want 61", n)
	}
}
