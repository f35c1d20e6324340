// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"time"
)

// recordVersion rises when an older daemon could not understand a record.
const recordVersion = 1

// record is all that is kept of a machine; it is written whole. A record in
// memory is never changed, only replaced, so it may be read without a lock.
//
// It is the journal too: State says what is under way, and from the rest every
// resource that the machine may have can be named. So whatever a crash left is
// found by the record alone.
type record struct {
	Version int         `json:"version"`
	ID      string      `json:"id"`
	Spec    MachineSpec `json:"spec"`
	State   State       `json:"state"`
	Reason  string      `json:"reason,omitempty"`

	Created time.Time        `json:"created"`
	Address netip.Prefix     `json:"address"`
	Gateway netip.Addr       `json:"gateway"`
	MAC     net.HardwareAddr `json:"mac,omitempty"`
	Tap     string           `json:"tap,omitempty"`
	Image   imageRef         `json:"image"`
	Source  *cloneSource     `json:"source,omitempty"` // of a clone, while it is made

	Started time.Time `json:"started,omitzero"` // of the present or the last run
	Stopped time.Time `json:"stopped,omitzero"`
	Run     *run      `json:"run,omitempty"` // while State is starting, running or paused
}

// imageRef is what a machine keeps of its image.
type imageRef struct {
	Name    string `json:"name"`
	OS      string `json:"os,omitempty"`
	Profile string `json:"profile,omitempty"`
	User    string `json:"user,omitempty"`
	Cmdline string `json:"cmdline,omitempty"`
}

// cloneSource is where the disk of a clone comes from.
type cloneSource struct {
	ID       string `json:"id"`
	Snapshot string `json:"snapshot,omitempty"` // empty: the disk as it is
}

// run is one run of a worker.
type run struct {
	Boot  string    `json:"boot"` // the host's boot that it is of
	Began time.Time `json:"began"`
	PID   int       `json:"pid,omitempty"`
	// Birth is when the process began, in the kernel's own terms; with PID it
	// names one process for ever.
	Birth string `json:"birth,omitempty"`
	// Group is the control group that was to be the worker's.
	Group string `json:"group,omitempty"`
}

var idRule = regexp.MustCompile(`^[0-9a-f]{32}$`)

func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// key is a machine's name among all.
type key struct{ namespace, name string }

func (k key) String() string { return k.namespace + "/" + k.name }

func (r *record) key() key { return key{r.Spec.Namespace, r.Spec.Name} }

func (r *record) encode() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return nil, fmt.Errorf("record of machine %s: %w", r.key(), err)
	}
	return append(b, '\n'), nil
}

// decodeRecord reads a record that this or an older build wrote, and checks
// what the host relies on: the store's files may have been touched.
func decodeRecord(b []byte, id string) (*record, error) {
	r := new(record)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("record of version %d; this build knows %d", r.Version, recordVersion)
	}
	if r.ID != id || !idRule.MatchString(r.ID) {
		return nil, fmt.Errorf("record says that its machine is %q", r.ID)
	}
	if !nameRule.MatchString(r.Spec.Name) || !namespaceRule.MatchString(r.Spec.Namespace) {
		return nil, fmt.Errorf("record has the name %q in the namespace %q", r.Spec.Name, r.Spec.Namespace)
	}
	switch r.State {
	case StateCreating, StateStopped, StateDestroying:
	case StateStarting, StateRunning, StatePaused:
		if r.Run == nil {
			return nil, fmt.Errorf("record is in state %q without a run", r.State)
		}
	default:
		return nil, fmt.Errorf("record is in state %q", r.State)
	}
	return r, nil
}
