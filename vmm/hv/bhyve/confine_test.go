// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
)

// A confined machine may do what this package asks of one, and no more: every
// request in its code is either of the time when the machine is made or allowed.
func TestRuntimeRequests(t *testing.T) {
	making := []uint32{
		abi.VM_GET_MEMSEG, abi.VM_GET_MEMSEG_14, abi.VM_ALLOC_MEMSEG, abi.VM_ALLOC_MEMSEG_14,
		abi.VM_SET_TOPOLOGY, abi.VM_RTC_SETTIME, abi.VM_GET_HPET_CAPABILITIES,
	}
	numbers := requestNumbers(t)
	used := map[uint32]bool{}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") || f == "confine.go" {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), f, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && strings.HasPrefix(s.Sel.Name, "VM_") {
				if nr, ok := numbers[s.Sel.Name]; ok {
					used[nr] = true
				}
			}
			return true
		})
	}
	if len(used) < 20 {
		t.Fatalf("only %d requests were found in the code", len(used))
	}
	for name, nr := range numbers {
		allowed := slices.Contains(runtimeRequests(), nr)
		if want := used[nr] && !slices.Contains(making, nr); allowed != want {
			t.Errorf("%s: allowed %v, used when the machine runs %v", name, allowed, want)
		}
	}
}

// requestNumbers reads the requests' numbers from package abi's source.
func requestNumbers(t *testing.T) map[string]uint32 {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), filepath.Join("internal", "abi", "ztypes_vmm.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]uint32{}
	ast.Inspect(tree, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		lit, ok := v.Values[0].(*ast.BasicLit)
		if !ok || !strings.HasPrefix(v.Names[0].Name, "VM_") {
			return true
		}
		if nr, err := strconv.ParseUint(lit.Value, 0, 32); err == nil && nr>>8&0xff == 'v' {
			out[v.Names[0].Name] = uint32(nr)
		}
		return true
	})
	return out
}

// What a machine does in its life it does when confined, too: runs, is reset
// with its ROM, interrupted, looked at.
func TestConfinedLife(t *testing.T) {
	h := newHost()
	h.script = func(m *fakeMachine, cpu int) abi.Exit {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.cpu(int32(cpu)).suspended = true
		return abi.Exit{Exitcode: abi.VM_EXITCODE_SUSPENDED, U: [15]uint64{abi.VM_SUSPEND_HALT}}
	}
	vm, m := newTestVM(t, h, 2)
	const romSize = 64 << 10
	if _, err := vm.MapMemory([]hv.Region{{Size: 1 << 20}, {Base: 4<<30 - romSize, Size: romSize, Kind: hv.ROM}}); err != nil {
		t.Fatal(err)
	}
	b := &Backend{host: h}
	if err := errors.Join(vm.Confine(), b.Confine()); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove("vm1"); !errors.Is(err, errNotCapable) {
		t.Errorf("removing a machine: %v", err)
	}
	if err := call(vm.dev, abi.VM_RTC_SETTIME, &abi.RTCTime{}); !errors.Is(err, errNotCapable) {
		t.Errorf("setting the clock: %v", err)
	}
	maps := len(m.maps)
	for range 2 {
		if err := vm.VCPU(0).SetState(&hv.State{}); err != nil {
			t.Fatal(err)
		}
		if e, err := vm.VCPU(0).Run(&accesses{}); err != nil || e != (hv.Halted{}) {
			t.Errorf("%v, %v", e, err)
		}
		if _, err := vm.VCPU(0).State(); err != nil {
			t.Error(err)
		}
		if err := errors.Join(vm.SetIRQ(4, true), vm.SetIRQ(4, false), vm.SetIRQ(20, true), vm.SetIRQ(20, false)); err != nil {
			t.Error(err)
		}
		if _, err := vm.Stats(0); err != nil {
			t.Error(err)
		}
		if err := vm.Reset(); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.maps) != maps {
		t.Errorf("%d maps after a reset, %d before", len(m.maps), maps)
	}
	if err := vm.Close(); err != nil {
		t.Error(err)
	}
	if h.machines["skep-vm1"] == nil {
		t.Error("a confined machine took itself out of the kernel")
	}
	if err := vm.Confine(); !errors.Is(err, hv.ErrClosed) {
		t.Errorf("confine after the end: %v", err)
	}
}
