// SPDX-License-Identifier: BSD-2-Clause

package abi

import (
	"encoding/json"
	"os"
	"testing"
)

// The table is taken from FreeBSD's headers by a program.
func TestNumbers(t *testing.T) {
	b, err := os.ReadFile("testdata/abi-freebsd15-amd64.json")
	if err != nil {
		t.Fatal(err)
	}
	var table struct{ Constants map[string]uint64 }
	if err := json.Unmarshal(b, &table); err != nil {
		t.Fatal(err)
	}
	if want := table.Constants["TAPSVNETHDR"]; want != TAPSVNETHDR || want == 0 {
		t.Errorf("TAPSVNETHDR is %#x, not %#x", want, TAPSVNETHDR)
	}
}
