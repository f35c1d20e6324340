// SPDX-License-Identifier: BSD-2-Clause

package sandbox

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The filter lets through the requests of KVM that a running machine needs and no
// others: those in the code of package kvm without those by which a machine is
// made.
func TestRequestsOfKVM(t *testing.T) {
	making := []string{
		"kvmGetAPIVersion", "kvmCreateVM", "kvmGetMSRIndexList", "kvmCheckExtension", "kvmGetVCPUMmapSize", "kvmGetSupportedCPUID",
		"kvmCreateVCPU", "kvmSetUserMemoryRegion", "kvmSetTSSAddr", "kvmSetIdentityMapAddr", "kvmCreateIRQChip", "kvmCreatePIT2",
		"kvmGetTSCKHz", "kvmSetCPUID2",
		// What a new machine's state is, to which a reset goes back.
		"kvmGetMPState", "kvmGetXCRs", "kvmGetXSave", "kvmGetDebugRegs", "kvmGetLAPIC", "kvmGetVCPUEvents", "kvmGetPIT2", "kvmGetIRQChip",
	}
	numbers, used := map[string]uint32{}, map[string]bool{}
	files, err := filepath.Glob("../../vmm/hv/kvm/*_linux.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		tree, err := parser.ParseFile(token.NewFileSet(), f, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		numbersFile := strings.HasSuffix(f, "/ztypes_linux.go")
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				if !numbersFile || len(n.Values) != 1 {
					return true
				}
				if lit, ok := n.Values[0].(*ast.BasicLit); ok {
					if nr, err := strconv.ParseUint(lit.Value, 0, 32); err == nil && nr>>8&0xff == 0xae {
						numbers[n.Names[0].Name] = uint32(nr)
					}
				}
			case *ast.Ident:
				if !numbersFile {
					used[n.Name] = true
				}
			}
			return true
		})
	}
	if len(numbers) < 40 {
		t.Fatalf("only %d requests were found", len(numbers))
	}
	known := map[uint32]bool{}
	for name, nr := range numbers {
		known[nr] = true
		allowed := slices.Contains(ioctls, nr)
		if want := used[name] && !slices.Contains(making, name); allowed != want {
			t.Errorf("%s: allowed %v, used when the machine runs %v", name, allowed, want)
		}
	}
	for _, nr := range ioctls {
		if nr>>8&0xff == 0xae && !known[nr] {
			t.Errorf("%#x is allowed, which package kvm does not have", nr)
		}
	}
}
