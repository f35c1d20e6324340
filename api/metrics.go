// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/skepvm/skep"
)

// collector asks the host at each scrape: nothing is counted that the host
// does not know already.
type collector struct {
	s                                            *Server
	up, machines, cpus, memory, disk, addr, info *prometheus.Desc
}

func newMetrics(s *Server) *prometheus.Registry {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("skep_"+name, help, labels, nil)
	}
	c := &collector{
		s:        s,
		up:       d("start_time_seconds", "When the daemon started, in seconds since 1970."),
		machines: d("machines", "Machines by state.", "state"),
		cpus:     d("vcpus", "vCPUs of the machines that run."),
		memory:   d("memory_bytes", "Host memory: all of it, what machines may have, what those that run have.", "kind"),
		disk:     d("disk_bytes", "The store: what is free, what is promised to disks and not yet written.", "kind"),
		addr:     d("addresses", "Addresses of the pool: all of them, the free ones.", "kind"),
		info:     d("info", "Constant 1: what this host is.", "version", "emulator", "os", "hostname"),
	}
	r := prometheus.NewRegistry()
	r.MustRegister(c) // one collector on a new registry cannot collide
	return r
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.up, c.machines, c.cpus, c.memory, c.disk, c.addr, c.info} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(c.up, float64(c.s.began.Unix()))
	states := map[skep.State]int{skep.StateRunning: 0, skep.StateStopped: 0}
	var cpus int
	for _, st := range c.s.host.List("") {
		states[st.State]++
		if isOn(st.State) {
			cpus += st.Spec.CPUs
		}
	}
	for state, n := range states {
		gauge(c.machines, float64(n), string(state))
	}
	gauge(c.cpus, float64(cpus))
	ctx, cancel := context.WithTimeout(c.s.ctx, 5*time.Second)
	defer cancel()
	i, err := c.s.host.Info(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.info, err)
		return
	}
	gauge(c.memory, float64(i.Memory), "total")
	gauge(c.memory, float64(i.MemoryLimit), "limit")
	gauge(c.memory, float64(i.MemoryCommitted), "committed")
	gauge(c.disk, float64(i.DiskFree), "free")
	gauge(c.disk, float64(i.DiskPromised), "promised")
	gauge(c.addr, float64(i.Addresses), "total")
	gauge(c.addr, float64(i.AddressesFree), "free")
	gauge(c.info, 1, c.s.opt.Version, i.Emulator, i.OS, i.Hostname)
}

func (s *Server) metricsHandler() http.Handler {
	return promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4})
}
