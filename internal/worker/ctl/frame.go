// SPDX-License-Identifier: BSD-2-Clause

package ctl

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Version of the protocol. A daemon speaks to workers of an older build, so a
// field is only ever added; a change that is more than that raises Version.
const Version = 1

// MaxFrame bounds a frame's JSON.
const MaxFrame = 64 << 10

// Op names an operation.
type Op string

// The operations.
const (
	OpStatus  Op = "status"
	OpPause   Op = "pause"
	OpResume  Op = "resume"
	OpPower   Op = "power" // the ACPI power button
	OpReset   Op = "reset"
	OpKill    Op = "kill"
	OpStats   Op = "stats"
	OpConsole Op = "console"
	OpWatch   Op = "watch"
)

// State of the guest in a worker.
type State string

// The states. They are passed in this order, Running and Paused to and fro.
const (
	Starting State = "starting"
	Running  State = "running"
	Paused   State = "paused"
	Ended    State = "ended"
)

// Hello is the worker's first frame.
type Hello struct {
	Version int       `json:"v"`
	Machine string    `json:"machine"` // its ID
	Began   time.Time `json:"began"`
}

// Request asks for an operation.
type Request struct {
	Op Op `json:"op"`
}

// Response answers a Request.
type Response struct {
	Error   string `json:"error,omitempty"`
	State   State  `json:"state,omitempty"`
	Resets  int    `json:"resets,omitempty"`
	History int    `json:"history,omitempty"` // bytes of console history that follow
	Stats   *Stats `json:"stats,omitempty"`
}

// Stats are the worker's counters.
type Stats struct {
	CPUTime  time.Duration     `json:"cpu_time"`
	RSS      int64             `json:"rss"`
	Counters map[string]uint64 `json:"counters,omitempty"`
}

// Event tells a watcher what the guest's state is now.
type Event struct {
	State  State `json:"state"`
	Resets int   `json:"resets"`
	Exit   *Exit `json:"exit,omitempty"` // with Ended
}

// Kind says how a guest ended.
type Kind string

// The kinds.
const (
	PowerOff    Kind = "poweroff" // by the guest
	Killed      Kind = "killed"   // by request
	TripleFault Kind = "triple-fault"
	Halted      Kind = "halted" // with interrupts off: nothing can wake it
	Failed      Kind = "failed" // what the worker could not go on from
)

// Exit is a worker's last word, in the exit file and in the last Event.
type Exit struct {
	Machine string    `json:"machine"`
	Time    time.Time `json:"time"`
	Kind    Kind      `json:"kind"`
	Detail  string    `json:"detail,omitempty"`
	Resets  int       `json:"resets,omitempty"`
	// Registers of the vCPU that it happened on, a few lines.
	Registers string `json:"registers,omitempty"`
}

// maxDetail keeps an Exit well inside a frame.
const maxDetail = 16 << 10

// Clip shortens what is too long for a frame.
func (e Exit) Clip() Exit {
	if len(e.Detail) > maxDetail {
		e.Detail = e.Detail[:maxDetail] + "…"
	}
	if len(e.Registers) > maxDetail {
		e.Registers = e.Registers[:maxDetail] + "…"
	}
	return e
}

// WriteFrame writes v as one frame, in one Write.
func WriteFrame(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("control frame: %w", err)
	}
	if len(b) > MaxFrame {
		return fmt.Errorf("control frame of %d bytes is longer than %d", len(b), MaxFrame)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...))
	return err
}

// ReadFrame reads one frame into v. It reads no byte beyond the frame and
// allocates no more than MaxFrame.
func ReadFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxFrame {
		return fmt.Errorf("control frame claims %d bytes, longer than %d", n, MaxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("control frame: %w", err)
	}
	return nil
}
