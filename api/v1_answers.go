// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/skepvm/skep"
)

// created answers a create. The values after the ids are command lines, ready
// to be pasted: the clients print them.
type created struct {
	ID         string   `json:"id"`
	InstanceID string   `json:"instanceid"`
	Cluster    string   `json:"cluster"`
	Status     string   `json:"status"`
	Start      string   `json:"start"`
	Stop       string   `json:"stop"`
	Destroy    string   `json:"destroy"`
	Message    []string `json:"Message,omitempty"` // protocol 0.2
}

func createAnswer(base, cid, id string, legacy bool) created {
	line := func(verb string) string { return fmt.Sprintf("curl -H cid:%s %s/api/v1/%s/%s", cid, base, verb, id) }
	c := created{
		ID: id, InstanceID: id,
		Cluster: fmt.Sprintf("curl -H cid:%s %s/api/v1/cluster", cid, base),
		Status:  line("status"), Start: line("start"), Stop: line("stop"), Destroy: line("destroy"),
	}
	if legacy {
		c.Message = []string{c.Cluster, c.Status, c.Start, c.Stop, c.Destroy}
	}
	return c
}

// pending is the status of a machine whose create is under way or has failed.
type pending struct {
	ID         string `json:"id"`
	InstanceID string `json:"instanceid"`
	IsPowerOn  string `json:"is_power_on"` // a string here, a bool in full: so it is in the original
	Status     string `json:"status"`      // pending or failed
	Progress   int    `json:"progress"`    // 0 to 100
	Step       string `json:"step,omitempty"`
	Doing      string `json:"doing,omitempty"`
	Detail     string `json:"detail,omitempty"`
	Message    string `json:"Message,omitempty"` // why it failed
}

// vmStatus is the status of a machine. docs/api.md tells what of it the
// original does not have.
type vmStatus struct {
	ID          string `json:"id"` // the hostname: see idOf
	InstanceID  string `json:"instanceid"`
	Type        string `json:"type"`
	Emulator    string `json:"emulator"`
	IsPowerOn   bool   `json:"is_power_on"`
	Status      string `json:"status"`
	Reason      string `json:"reason,omitempty"`
	Created     string `json:"created"`
	CPUs        int    `json:"cpus"`
	RAM         string `json:"ram"`
	RAMBytes    int64  `json:"ram_bytes"`
	RAMHuman    string `json:"ram_human"`
	ImgsizeByte int64  `json:"imgsize_bytes"`
	Imgsize     string `json:"imgsize"`
	OSType      string `json:"vm_os_type"`
	OSProfile   string `json:"vm_os_profile"`
	Image       string `json:"image"`
	SSHUser     string `json:"ssh_user"`
	sshAddress
	vnc
	MAC string `json:"nic_hwaddr0,omitempty"`
}

// vnc is empty: no machine has a screen. The fields are there because those
// who read the original's answer may rely on them.
type vnc struct {
	Host     string `json:"vnc_host"`
	Port     int    `json:"vnc_port"`
	Password string `json:"vnc_password"`
}

// sshAddress is where a machine is reached.
type sshAddress struct {
	SSHHost    string `json:"ssh_host"`
	SSHPort    int    `json:"ssh_port"`
	SSH4Host   string `json:"ssh4_host,omitempty"`
	SSH4Port   int    `json:"ssh4_port,omitempty"`
	SSH6Host   string `json:"ssh6_host,omitempty"`
	SSH6Port   int    `json:"ssh6_port,omitempty"`
	SSHString  string `json:"ssh_string"`
	SSH4String string `json:"ssh4_string"`
	SSH6String string `json:"ssh6_string"`
}

const sshPort = 22

func sshOf(user string, addr netip.Addr) (a sshAddress) {
	if !addr.IsValid() {
		return a
	}
	line := fmt.Sprintf("ssh %s@%s -p%d", user, addr, sshPort)
	a.SSHHost, a.SSHPort, a.SSHString = addr.String(), sshPort, line
	if addr.Is4() {
		a.SSH4Host, a.SSH4Port, a.SSH4String = a.SSHHost, sshPort, line
	} else {
		a.SSH6Host, a.SSH6Port, a.SSH6String = a.SSHHost, sshPort, line
	}
	return a
}

func statusAnswer(st skep.Status) any {
	// The first start belongs to the create.
	first := st.State == skep.StateStarting && st.Progress.Step != skep.StepDone
	if first || st.State == skep.StateCreating || st.State == skep.StateFailed {
		p := pending{
			ID: st.Spec.Name, InstanceID: st.Spec.Name, IsPowerOn: "false", Status: "pending",
			Progress: st.Progress.Percent, Step: string(st.Progress.Step), Doing: string(st.Progress.Doing), Detail: st.Progress.String(),
		}
		if st.State == skep.StateFailed {
			p.Status, p.Message = "failed", st.Progress.Error
		}
		return p
	}
	return vmStatus{
		ID: idOf(st.Spec), InstanceID: st.Spec.Name,
		Type: "vm", Emulator: st.Emulator, IsPowerOn: isOn(st.State), Status: string(st.State), Reason: st.Reason,
		Created: st.Created.UTC().Format("2006-01-02T15:04:05"),
		CPUs:    st.Spec.CPUs,
		RAM:     skep.FormatSize(st.Spec.Memory), RAMBytes: st.Spec.Memory, RAMHuman: skep.FormatSize(st.Spec.Memory),
		ImgsizeByte: st.Spec.Disk, Imgsize: skep.FormatSize(st.Spec.Disk),
		OSType: st.OS, OSProfile: st.Profile, Image: st.Spec.Image,
		SSHUser: st.User, sshAddress: sshOf(st.User, st.Address.Addr()), MAC: st.MAC.String(),
	}
}

// idOf is the id of a machine's status: its hostname, which is its name unless
// the caller asked for another. nubectl looks for the name that it was given
// there, so a hostname that is only the name with _ as - stays the name.
func idOf(spec skep.MachineSpec) string {
	if spec.Hostname == "" || spec.Hostname == hostnameFrom(spec.Name) {
		return spec.Name
	}
	return spec.Hostname
}

func isOn(s skep.State) bool {
	return s == skep.StateRunning || s == skep.StatePaused || s == skep.StateStopping
}

// clusterMember is one line of a cluster's list.
type clusterMember struct {
	ID         string `json:"id"`
	InstanceID string `json:"instanceid"`
	Type       string `json:"type"`
	Profile    string `json:"profile"`
	OSType     string `json:"vm_os_type"`
	OSProfile  string `json:"vm_os_profile"`
	IsPowerOn  bool   `json:"is_power_on"`
	Status     string `json:"status"`
	Hardware   string `json:"hw"` // "cpus/ram/disk"
	SSHUser    string `json:"ssh_user"`
	sshAddress
}

type clusterTotals struct {
	Environment  int    `json:"total_environment"`
	CPUs         int    `json:"total_cpus"`
	RAMBytes     int64  `json:"total_ram_bytes"`
	RAM          string `json:"total_ram"`
	ImgsizeBytes int64  `json:"total_imgsize_bytes"`
	Imgsize      string `json:"total_imgsize"`
}

func clusterAnswer(list []skep.Status) any {
	if len(list) == 0 {
		return struct{}{}
	}
	var t clusterTotals
	servers := make([]clusterMember, 0, len(list))
	for _, st := range list {
		servers = append(servers, clusterMember{
			ID: st.Spec.Name, InstanceID: st.Spec.Name, Type: "vm", Profile: st.Spec.Image,
			OSType: st.OS, OSProfile: st.Profile, IsPowerOn: isOn(st.State), Status: string(st.State),
			Hardware: fmt.Sprintf("%d/%s/%s", st.Spec.CPUs, skep.FormatSize(st.Spec.Memory), skep.FormatSize(st.Spec.Disk)),
			SSHUser:  st.User, sshAddress: sshOf(st.User, st.Address.Addr()),
		})
		t.Environment++
		t.CPUs += st.Spec.CPUs
		t.RAMBytes += st.Spec.Memory
		t.ImgsizeBytes += st.Spec.Disk
	}
	t.RAM, t.Imgsize = skep.FormatSize(t.RAMBytes), skep.FormatSize(t.ImgsizeBytes)
	return struct {
		Servers  []clusterMember `json:"servers"`
		Clusters []clusterTotals `json:"clusters"`
	}{servers, []clusterTotals{t}}
}

func flavorsAnswer(list []skep.Flavor) any {
	type flavor struct {
		Name    string `json:"name"`
		CPUs    int    `json:"cpus"`
		RAM     string `json:"ram"`
		Imgsize string `json:"imgsize"`
	}
	out := make([]flavor, 0, len(list))
	for _, f := range list {
		out = append(out, flavor{f.Name, f.CPUs, skep.FormatSize(f.Memory), skep.FormatSize(f.Disk)})
	}
	return map[string][]flavor{"flavor": out}
}

// profilesAnswer describes the images as mybee-qt wants them: with the room
// that one machine may take.
func profilesAnswer(list []skep.Image, info skep.Info) any {
	type profile struct {
		Name            string `json:"name"`
		Profile         string `json:"profile"`
		Type            string `json:"type"`
		DefaultName     string `json:"default_jname"`
		Imgsize         string `json:"imgsize"`
		ImgsizeBytes    int64  `json:"imgsize_bytes"`
		ImgsizeMin      string `json:"imgsize_min"`
		ImgsizeMinBytes int64  `json:"imgsize_min_bytes"`
		CPUsMax         int    `json:"vm_cpus_max"`
		RAMMax          string `json:"vm_ram_max"`
		RAMMaxBytes     int64  `json:"vm_ram_max_bytes"`
		ImgsizeMax      string `json:"imgsize_max"`
		ImgsizeMaxBytes int64  `json:"imgsize_max_bytes"`
	}
	whole := func(n int64) int64 { return max(n, 0) / skep.MiB * skep.MiB }
	ramMax, diskMax := whole(info.MemoryLimit-info.MemoryCommitted), whole(info.DiskFree)
	out := make([]profile, 0, len(list))
	for _, i := range list {
		size := max(i.MinDisk, 10*skep.GiB)
		out = append(out, profile{
			Name: i.Name, Profile: i.Profile, Type: i.OS, DefaultName: strings.Map(nameRune, i.Name),
			Imgsize: skep.FormatSize(size), ImgsizeBytes: size, ImgsizeMin: skep.FormatSize(i.MinDisk), ImgsizeMinBytes: i.MinDisk,
			CPUsMax: maxCPUs, RAMMax: skep.FormatSize(ramMax), RAMMaxBytes: ramMax,
			ImgsizeMax: skep.FormatSize(diskMax), ImgsizeMaxBytes: diskMax,
		})
	}
	return out
}

// nameRune keeps what may stand in a machine's name.
func nameRune(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' {
		return r
	}
	return -1
}
