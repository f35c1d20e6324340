// SPDX-License-Identifier: BSD-2-Clause

package kvm

import (
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm/hv"
)

// union writes the fields of a run page's union as the kernel lays them out.
func union(at map[int]any) func(*runPage) {
	return func(p *runPage) {
		for off, x := range at {
			if _, err := binary.Encode(p.U[off:], binary.LittleEndian, x); err != nil {
				panic(err)
			}
		}
	}
}

// What KVM says in its page when no handler can answer becomes an exit that
// tells all of it.
func TestLeave(t *testing.T) {
	for _, c := range []struct {
		name   string
		reason uint32
		fill   func(*runPage)
		want   hv.Exit
		text   string
	}{
		{"shutdown", exitShutdown, union(nil), hv.Shutdown{}, "triple fault"},
		{"fail entry", exitFailEntry, union(map[int]any{0: uint64(0x80000021), 8: uint32(3)}),
			hv.Failed{Reason: "the processor refuses to enter the guest", Code: exitFailEntry, Detail: []uint64{0x80000021, 3}}, "0x80000021, 0x3"},
		{"internal error", exitInternalError, union(map[int]any{0: uint32(3), 4: uint32(2), 8: [3]uint64{0xaa, 0xbb, 0xcc}}),
			hv.Failed{Reason: "KVM internal error", Code: 3, Detail: []uint64{0xaa, 0xbb}}, "(code 0x3, 0xaa, 0xbb)"},
		{"internal error without data", exitInternalError, union(map[int]any{0: uint32(2)}),
			hv.Failed{Reason: "KVM internal error", Code: 2}, "(code 0x2)"},
		{"internal error that counts too far", exitInternalError, union(map[int]any{0: uint32(4), 4: ^uint32(0), 8 + 15*8: uint64(7)}),
			hv.Failed{Reason: "KVM internal error", Code: 4, Detail: []uint64{15: 7}}, "0x7)"},
		{"emulation", exitInternalError, union(map[int]any{0: uint32(1), 4: uint32(4), 8: uint64(1), 16: uint8(3), 17: [4]byte{0x0f, 0xae, 0x38, 0x90}}),
			hv.Failed{Reason: "KVM cannot emulate an instruction", Code: 1, Inst: []byte{0x0f, 0xae, 0x38}}, "instruction 0f ae 38"},
		{"emulation with too long an instruction", exitInternalError, union(map[int]any{0: uint32(1), 4: uint32(3), 8: uint64(1), 16: uint8(255), 17: [15]byte{14: 9}}),
			hv.Failed{Reason: "KVM cannot emulate an instruction", Code: 1, Inst: []byte{14: 9}}, "00 09"},
		{"emulation without bytes", exitInternalError, union(map[int]any{0: uint32(1), 4: uint32(3), 8: [3]uint64{2, 5, 6}}),
			hv.Failed{Reason: "KVM cannot emulate an instruction", Code: 1, Detail: []uint64{2, 5, 6}}, "0x2, 0x5, 0x6"},
		{"emulation of an old kernel", exitInternalError, union(map[int]any{0: uint32(1)}),
			hv.Failed{Reason: "KVM cannot emulate an instruction", Code: 1}, "(code 0x1)"},
		{"power off", exitSystemEvent, union(map[int]any{0: uint32(1)}), hv.SystemPowerOff{}, "system power off"},
		{"reset", exitSystemEvent, union(map[int]any{0: uint32(2)}), hv.SystemReset{}, "system reset"},
		{"crash", exitSystemEvent, union(map[int]any{0: uint32(3)}), hv.Failed{Reason: "the guest reports a crash", Code: 3}, "reports a crash (code 0x3)"},
		{"other event", exitSystemEvent, union(map[int]any{0: uint32(99)}), hv.Failed{Reason: "unknown system event", Code: 99}, "0x63"},
		{"unknown to KVM", exitUnknown, union(map[int]any{0: uint64(0x1_0000_004d)}),
			hv.Failed{Reason: "the processor left the guest for a reason that KVM does not know", Code: 0x4d, Detail: []uint64{0x1_0000_004d}}, "0x10000004d"},
		{"unknown to us", 0x1234, union(nil), hv.Failed{Reason: "unknown KVM exit", Code: 0x1234}, "unknown KVM exit (code 0x1234)"},
	} {
		p := &runPage{ExitReason: c.reason}
		c.fill(p)
		got, err := (&VCPU{fd: -1, run: p}).leave(p)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %#v, want %#v", c.name, got, c.want)
		}
		if s := got.String(); !strings.Contains(s, c.text) {
			t.Errorf("%s reads %q, want %q in it", c.name, s, c.text)
		}
	}
}

// A triple fault is one even where the registers cannot be asked: then no state
// is made up.
func TestLeaveShutdownWithoutRegisters(t *testing.T) {
	v := &VCPU{fd: -1, sync: true, last: kregs{RIP: 0x1000}}
	if _, err := v.State(); !errors.Is(err, unix.EBADF) {
		t.Fatalf("State: %v", err)
	}
	got, err := v.leave(&runPage{ExitReason: exitShutdown})
	if s, ok := got.(hv.Shutdown); err != nil || !ok || s.Last != nil {
		t.Errorf("%#v, %v", got, err)
	}
}
