// SPDX-License-Identifier: BSD-2-Clause

package virtiotest

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/skepvm/skep/vmm/virtio"
)

// Status bits as a driver sets them, one after the other.
const (
	acknowledged = virtio.StatusAcknowledge
	driving      = acknowledged | virtio.StatusDriver
	agreed       = driving | virtio.StatusFeaturesOK
	ready        = agreed | virtio.StatusDriverOK
)

// begin takes the device through reset up to status, with all features.
func (d *Driver) begin(status uint64) {
	d.M.SetConfig(d.Slot, 4, 2, 6)
	d.Reset()
	for _, s := range []uint64{acknowledged, driving, agreed, ready} {
		if s > status {
			return
		}
		if s == agreed {
			d.Features = d.Offered()
			d.SetFeatures(d.Features)
		}
		d.Set(DeviceStatus, s)
	}
}

// disorder are the steps of a driver out of their order. Each leaves queue q laid
// out with a chain published and notified, and says whether the device may work.
var disorder = []struct {
	name string
	runs bool
	do   func(d *Driver, q func() *VirtQueue)
}{
	{"DRIVER_OK before FEATURES_OK", false, func(d *Driver, q func() *VirtQueue) {
		d.begin(driving)
		v := q()
		v.Enable()
		d.Set(DeviceStatus, driving|virtio.StatusDriverOK)
	}},
	{"DRIVER_OK first of all", false, func(d *Driver, q func() *VirtQueue) {
		d.begin(0)
		d.Set(DeviceStatus, virtio.StatusDriverOK)
		v := q()
		v.Enable()
	}},
	{"DRIVER_OK before FEATURES_OK and the rest", false, func(d *Driver, q func() *VirtQueue) {
		d.begin(driving)
		d.Set(DeviceStatus, driving|virtio.StatusDriverOK)
		d.SetFeatures(d.Offered())
		d.Set(DeviceStatus, agreed)
		q().Enable()
	}},
	{"enabled before FEATURES_OK", false, func(d *Driver, q func() *VirtQueue) {
		d.begin(driving)
		q().Enable()
		d.SetFeatures(d.Offered())
		d.Set(DeviceStatus, agreed)
		d.Set(DeviceStatus, ready)
	}},
	{"notified before DRIVER_OK", false, func(d *Driver, q func() *VirtQueue) {
		d.begin(agreed)
		q().Enable()
	}},
	{"not enabled", false, func(d *Driver, q func() *VirtQueue) {
		d.begin(agreed)
		q()
		d.Set(DeviceStatus, ready)
	}},
	{"without VERSION_1", false, func(d *Driver, q func() *VirtQueue) {
		d.begin(driving)
		d.SetFeatures(d.Offered() &^ virtio.FeatureVersion1)
		d.Set(DeviceStatus, agreed)
		q().Enable()
		d.Set(DeviceStatus, ready)
	}},
	{"features that were not offered", false, func(d *Driver, q func() *VirtQueue) {
		d.begin(driving)
		d.SetFeatures(all)
		d.Set(DeviceStatus, agreed)
		q().Enable()
		d.Set(DeviceStatus, ready)
	}},
	{"reset between enabling and DRIVER_OK", false, func(d *Driver, q func() *VirtQueue) {
		d.begin(agreed)
		q().Enable()
		d.Set(DeviceStatus, 0)
		d.Set(DeviceStatus, ready)
	}},
	{"no bus mastering", false, func(d *Driver, q func() *VirtQueue) {
		d.begin(agreed)
		d.M.SetConfig(d.Slot, 4, 2, 2)
		q().Enable()
		d.Set(DeviceStatus, ready)
	}},
	{"paused", false, func(d *Driver, q func() *VirtQueue) {
		d.begin(agreed)
		q().Enable()
		d.Dev.Pause()
		d.Set(DeviceStatus, ready)
	}},
	{"queue reset after DRIVER_OK", false, func(d *Driver, q func() *VirtQueue) {
		d.begin(agreed)
		v := q()
		v.Enable()
		d.Set(DeviceStatus, ready)
		d.Set(QueueSelect, uint64(v.Index))
		d.Set(QueueReset, 1)
	}},
	{"enabled after DRIVER_OK", true, func(d *Driver, q func() *VirtQueue) {
		d.begin(ready)
		q().Enable()
	}},
	{"all of the status at once", true, func(d *Driver, q func() *VirtQueue) {
		d.begin(driving)
		d.SetFeatures(d.Offered())
		d.Set(DeviceStatus, ready)
		q().Enable()
	}},
	{"queue reset before it is enabled", true, func(d *Driver, q func() *VirtQueue) {
		d.begin(agreed)
		d.Set(QueueReset, 1)
		q().Enable()
		d.Set(DeviceStatus, ready)
	}},
	{"addresses and size after it is enabled", true, func(d *Driver, q func() *VirtQueue) {
		d.begin(agreed)
		v := q()
		v.Enable()
		for _, r := range []uint64{QueueDesc, QueueDriver, QueueDevice} {
			d.Set(r, 0xc0000000)
		}
		d.Set(QueueSize, 3)
		d.Set(DeviceStatus, ready)
		if d.Get(QueueDesc) != v.Desc || d.Get(QueueSize) != uint64(v.Size) {
			d.M.TB.Error("an enabled queue was moved")
		}
	}},
	{"features after FEATURES_OK", true, func(d *Driver, q func() *VirtQueue) {
		d.begin(agreed)
		d.SetFeatures(0)
		q().Enable()
		d.Set(DeviceStatus, ready)
		if d.Set(DriverFeatureSelect, 1); d.Get(DriverFeature) == 0 {
			d.M.TB.Error("features were taken back after FEATURES_OK")
		}
	}},
	{"status bits taken back", true, func(d *Driver, q func() *VirtQueue) {
		d.begin(agreed)
		q().Enable()
		d.Set(DeviceStatus, ready)
		d.Set(DeviceStatus, acknowledged)
	}},
}

// order plays the steps of a driver out of order: a device that has no driver
// yet, or none any more, leaves memory alone; and whatever was done, it works after
// a reset.
func (s Subject) order(t *testing.T) {
	for _, c := range disorder {
		t.Run(c.name, func(t *testing.T) {
			for _, bells := range []bool{false, true} {
				d, stir := s.attach(t, 96<<20, bells)
				for i := range int(d.Get(NumQueues)) {
					s.measured(d, func() {
						var q *VirtQueue
						c.do(d, func() *VirtQueue { q = d.NewQueue(i, 16); s.publish(q); return q })
						before, done := d.M.Read(q.Used, 6+8*q.Size), s.Work.Load()
						if c.runs {
							q.Kick()
							stir()
							d.Eventually("use of the ring", func() bool {
								return q.UsedIdx() != 0 || d.Get(DeviceStatus)&virtio.StatusNeedsReset != 0
							})
							return
						}
						for range 20 {
							q.Kick()
							stir()
							time.Sleep(50 * time.Microsecond)
						}
						if string(d.M.Read(q.Used, 6+8*q.Size)) != string(before) || s.Work.Load() != done {
							t.Errorf("queue %d: the device works already (status %#x)", i, d.Get(DeviceStatus))
						}
						d.Dev.Resume()
					})
				}
				s.again(d)
			}
		})
	}
	t.Run("at random", s.wander)
}

// publish gives q a chain that any device can do something with.
func (s Subject) publish(q *VirtQueue) {
	head := make([]byte, 16)
	if len(s.Words) > 0 {
		copy(head, s.Words[0])
	}
	if q.Index == 0 && s.Words == nil { // for what comes in
		q.Publish(q.Chain(q.In(256)))
		return
	}
	q.Publish(q.Chain(q.Out(head), q.In(256)))
}

// wander takes steps at random. A device that has not been told DRIVER_OK has no
// work.
func (s Subject) wander(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 7))
	pick := func(v ...uint64) uint64 { return v[rnd.IntN(len(v))] }
	for round := range 40 {
		d, stir := s.attach(t, 96<<20, round%2 == 0)
		n := int(d.Get(NumQueues))
		qs := make([]*VirtQueue, n)
		s.measured(d, func() {
			d.begin(pick(0, acknowledged, driving, agreed))
			ever, paused := false, false
			done := s.Work.Load()
			for range 60 {
				switch rnd.IntN(18) {
				case 0:
					d.Set(DeviceStatus, 0)
				case 1, 2, 3:
					d.Set(DeviceStatus, pick(acknowledged, driving, agreed, ready, virtio.StatusDriverOK, virtio.StatusFeaturesOK,
						virtio.StatusFailed, virtio.StatusNeedsReset, 0xff))
				case 4:
					d.SetFeatures(pick(0, d.Offered(), all, rnd.Uint64(), virtio.FeatureVersion1))
				case 5, 6:
					i := rnd.IntN(n)
					qs[i] = d.NewQueue(i, int(pick(1, 4, 16, 16, 16)))
					s.publish(qs[i])
				case 7, 8:
					d.Set(QueueSelect, pick(0, 1, uint64(n)-1, uint64(n), 0xffff))
					d.Set(QueueEnable, pick(1, 1, 1, 0, 2, 0xffff))
				case 9:
					d.Set(pick(QueueDesc, QueueDriver, QueueDevice), pick(0, 1, 0x1000, 0xc0000000, all, High, High+1<<20-16))
				case 10:
					d.Set(QueueSize, pick(0, 1, 3, 16, 256, 1<<15, 0xffff))
				case 11:
					d.Set(QueueReset, pick(1, 1, 0, 2))
				case 12:
					d.Set(pick(QueueVector, ConfigVector), pick(0, 1, uint64(n), uint64(n)+1, 0xffff))
				case 13:
					d.M.SetConfig(d.Slot, 4, 2, uint32(pick(2, 6, 6, 6)))
				case 14:
					if paused = !paused; paused {
						d.Dev.Pause()
					} else {
						d.Dev.Resume()
					}
				case 15:
					if paused {
						d.Dev.Reset()
						d.M.SetConfig(d.Slot, 4, 2, 6)
						if !d.find() {
							paused = false
							d.Dev.Resume()
							return
						}
					}
				default:
					if q := qs[rnd.IntN(n)]; q != nil {
						q.Kick()
					}
					stir()
				}
				// What begins may have to be counted before it is seen in the status.
				d.Entries.Add(uint64(n))
				if d.Starts.Add(1); d.Get(DeviceStatus)&virtio.StatusDriverOK != 0 {
					ever = true
				}
				if !ever && s.Work.Load() != done {
					t.Fatalf("round %d: the device works without DRIVER_OK", round)
				}
			}
			if paused {
				d.Dev.Resume()
			}
			d.Dev.Pause()
			d.Dev.Reset()
			d.Dev.Resume()
			d.Discover()
		})
		s.again(d)
	}
}
