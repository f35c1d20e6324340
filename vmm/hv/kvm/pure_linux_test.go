// SPDX-License-Identifier: BSD-2-Clause

package kvm

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm/hv"
)

func TestHasVirtualization(t *testing.T) {
	for text, want := range map[string]bool{
		"processor\t: 0\nflags\t\t: fpu svm lm\n":             true,
		"flags\t\t: fpu vmx\n":                                true,
		"processor\t: 0\nflags\t\t: fpu hypervisor\n":         false,
		"vmx flags\t: vnmi\nflags\t: fpu\n":                   false,
		"model name\t: svm vmx\nflags\t: fpu xvmx svm_lock\n": false,
		"": false,
	} {
		if got := hasVirtualization(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func find(list []cpuidEntry, f, index uint32) *cpuidEntry {
	for i := range list {
		if list[i].Function == f && list[i].Index == index {
			return &list[i]
		}
	}
	return nil
}

func TestCPUID(t *testing.T) {
	host := []cpuidEntry{
		{Function: 0, EAX: 0x1f},
		{Function: 1, EBX: 0xff_ff_08_55, ECX: ecx1VMX | 1, EDX: 1},
		{Function: 4, Index: 0, EAX: 0xffffc021}, // L1
		{Function: 4, Index: 3, EAX: 0xffffc063}, // L3
		{Function: 4, Index: 4},
		{Function: 0xa, EAX: 7, EBX: 7, ECX: 7, EDX: 7},
		{Function: 0xb, Index: 0, EAX: 99}, {Function: 0x1f, Index: 1, EAX: 99},
		{Function: 0x40000000, EAX: 0x40000001}, {Function: 0x40000001, EAX: 9},
		{Function: 0x80000001, ECX: ext1SVM | ext1PerfCtrCore | 1},
		{Function: 0x80000008, ECX: 0xf0ff},
		{Function: 0x8000000a, EAX: 1},
		{Function: 0x8000001d, Index: 3, EAX: 0xffffc063},
		{Function: 0x8000001e, EAX: 77, EBX: 77, ECX: 77},
		{Function: 0x80000022, EAX: 1},
	}
	// Two sockets of two cores of two threads; the sixth processor.
	l := buildCPUID(host, guestCPU{id: 5, count: 8, topology: hv.Topology{Sockets: 2, Cores: 2, Threads: 2}, tscKHz: 2600000, tscDeadline: true})
	for name, c := range map[string][2]uint32{
		"APIC id and siblings": {find(l, 1, 0).EBX, 5<<24 | 4<<16 | 0x0855},
		"features":             {find(l, 1, 0).ECX, 1 | ecx1X2APIC | ecx1TSCDeadline | ecx1Hypervisor},
		"HTT":                  {find(l, 1, 0).EDX, 1 | edx1HTT},
		"L1 sharing":           {find(l, 4, 0).EAX, 0x21 | 1<<14 | 1<<26},
		"L3 sharing":           {find(l, 4, 3).EAX, 0x63 | 3<<14 | 1<<26},
		"no more caches":       {find(l, 4, 4).EAX, 0},
		"counters":             {find(l, 0xa, 0).EAX, 0},
		"thread level":         {find(l, 0xb, 0).EAX, 1},
		"threads":              {find(l, 0xb, 0).EBX, 2},
		"core level":           {find(l, 0xb, 1).EAX, 2},
		"processors of socket": {find(l, 0xb, 1).EBX, 4},
		"level types":          {find(l, 0xb, 0).ECX<<16 | find(l, 0xb, 1).ECX, 0x100<<16 | 0x201},
		"x2APIC id":            {find(l, 0xb, 1).EDX, 5},
		"paravirtual leaves":   {find(l, 0x40000000, 0).EAX, leafPVTiming},
		"TSC":                  {find(l, leafPVTiming, 0).EAX, 2600000},
		"AMD features":         {find(l, 0x80000001, 0).ECX, 1 | ext1CmpLegacy},
		"AMD size":             {find(l, 0x80000008, 0).ECX, 2<<12 | 3},
		"AMD caches":           {find(l, 0x8000001d, 3).EAX, 0x63 | 3<<14},
		"AMD id":               {find(l, 0x8000001e, 0).EAX, 5},
		"AMD core":             {find(l, 0x8000001e, 0).EBX, 1<<8 | 2},
		"AMD node":             {find(l, 0x8000001e, 0).ECX, 1},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %#x, want %#x", name, c[0], c[1])
		}
	}
	for _, gone := range []uint32{0x1f, 0x8000000a, 0x80000022} {
		if e := find(l, gone, 0); e != nil {
			t.Errorf("leaf %#x is there", gone)
		}
	}
	if host[1].EBX != 0xff_ff_08_55 {
		t.Error("the host's list was changed")
	}
	// One processor has no siblings.
	l = buildCPUID(host, guestCPU{count: 1, topology: hv.Topology{Sockets: 1, Cores: 1, Threads: 1}})
	if e := find(l, 1, 0); e.EDX&edx1HTT != 0 || e.EBX>>16&0xff != 1 || e.ECX&ecx1TSCDeadline != 0 {
		t.Errorf("%+v", e)
	}
	if find(l, leafPVTiming, 0) != nil {
		t.Error("a frequency that is not known is told")
	}
}

func TestRegisters(t *testing.T) {
	var want hv.State
	v := reflect.ValueOf(&want).Elem()
	n := uint64(0x1111)
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Uint64 {
			f.SetUint(n)
			n += 0x1111
		}
	}
	want.RFLAGS |= 2
	for i, s := range segments(&want) {
		*s = hv.Segment{Selector: uint16(i * 8), Base: uint64(i) << 20, Limit: 0xfffff, Access: []uint32{0xa09b, 0xc093, 0x93, hv.Unusable, 0x8b, 0x82, 0xf0ff, 0x1060}[i]}
	}
	want.GDTR, want.IDTR = hv.Table{Base: 1, Limit: 2}, hv.Table{Base: 3, Limit: 4}
	var r kregs
	var s ksregs
	s.APICBase, s.CR8, s.InterruptBitmap = 0xfee00900, 3, [4]uint64{1}
	r.from(&want)
	s.from(&want)
	got := *r.state()
	s.to(&got)
	if got != want {
		t.Errorf("%v\nwant %v", &got, &want)
	}
	if s.APICBase != 0xfee00900 || s.CR8 != 3 || s.InterruptBitmap != [4]uint64{} {
		t.Error("what the state does not name has changed, or an interrupt is left")
	}
}

// Memory and limits are told apart, and the errno stays.
func TestErrnos(t *testing.T) {
	for errno, want := range map[error]error{unix.ENOMEM: hv.ErrNoMemory, unix.EMFILE: hv.ErrLimit, unix.ENFILE: hv.ErrLimit, unix.EINVAL: nil} {
		err := explain(fmt.Errorf("create machine: %w", errno))
		if !errors.Is(err, errno) || errors.Is(err, hv.ErrNoMemory) != (want == hv.ErrNoMemory) || errors.Is(err, hv.ErrLimit) != (want == hv.ErrLimit) {
			t.Errorf("%v: %v, want %v", errno, err, want)
		}
	}
}
