// SPDX-License-Identifier: BSD-2-Clause

package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const run = `go: downloading something
{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"said by A\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"said by B\n"}
{"Action":"fail","Package":"p","Test":"TestB","Elapsed":0.1}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"fail","Package":"p","Elapsed":0.5}
{"Action":"build-output","ImportPath":"q","Output":"q.go:1:1: broken\n"}
{"Action":"build-fail","ImportPath":"q"}
{"Action":"output","Package":"q","Output":"FAIL\tq [build failed]\n"}
{"Action":"fail","Package":"q","FailedBuild":"q"}
{"Action":"skip","Package":"r","Test":"TestC"}
{"Action":"pass","Package":"r"}
`

func TestRun(t *testing.T) {
	var totals Totals
	var out strings.Builder
	if err := totals.Run(strings.NewReader(run), &out, "unit"); err != nil {
		t.Fatal(err)
	}
	if totals.Passed != 1 || totals.Failed != 2 || totals.Skipped != 1 {
		t.Errorf("totals %+v", totals)
	}
	for _, want := range []string{"go: downloading", "said by B", "q.go:1:1: broken", "unit: FAIL p: 1 passed, 1 failed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "said by A") {
		t.Error("a passed test's output is shown")
	}

	path := filepath.Join(t.TempDir(), "totals")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := totals.AddTo(path); err != nil {
		t.Fatal(err)
	}
	if err := (Totals{Passed: 3}).AddTo(path); err != nil {
		t.Fatal(err)
	}
	back, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	out.Reset()
	back.Summary(&out)
	if !strings.HasSuffix(out.String(), "\n4 passed, 2 failed\n") || !strings.Contains(out.String(), "unit: q\n") {
		t.Errorf("summary:\n%s", out.String())
	}
}
