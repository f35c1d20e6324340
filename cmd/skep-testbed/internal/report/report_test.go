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
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:3: said by B\n"}
{"Action":"fail","Package":"p","Test":"TestB","Elapsed":0.1}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"fail","Package":"p","Elapsed":0.5}
{"Action":"build-output","ImportPath":"q","Output":"q.go:1:1: broken\n"}
{"Action":"build-fail","ImportPath":"q"}
{"Action":"output","Package":"q","Output":"FAIL\tq [build failed]\n"}
{"Action":"fail","Package":"q","FailedBuild":"q"}
{"Action":"run","Package":"s","Test":"TestD"}
{"Action":"run","Package":"s","Test":"TestD/sub"}
{"Action":"output","Package":"s","Test":"TestD/sub","Output":"    s_test.go:7: waiting\n"}
{"Action":"output","Package":"s","Test":"TestD/sub","Output":"panic: test timed out after 1s\n"}
{"Action":"output","Package":"s","Output":"FAIL\ts\n"}
{"Action":"fail","Package":"s","Elapsed":1}
{"Action":"skip","Package":"r","Test":"TestC"}
{"Action":"pass","Package":"r"}
`

func TestRun(t *testing.T) {
	var totals Totals
	var out strings.Builder
	if err := totals.Run(strings.NewReader(run), &out, "unit"); err != nil {
		t.Fatal(err)
	}
	if totals.Passed != 1 || totals.Failed != 4 || totals.Skipped != 1 {
		t.Errorf("totals %+v", totals)
	}
	for _, want := range []string{"go: downloading", "said by B", "q.go:1:1: broken", "unit: FAIL p: 1 passed, 1 failed",
		"waiting", "unit: FAIL s: 0 passed, 2 failed"} {
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
	if !strings.HasSuffix(out.String(), "\n4 passed, 4 failed\n") {
		t.Errorf("summary:\n%s", out.String())
	}
	for _, want := range []string{"unit: q\n", "unit: p TestB: b_test.go:3: said by B\n", "unit: s TestD/sub did not end: panic: test timed out after 1s\n", "unit: s TestD did not end\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the summary lacks %q:\n%s", want, out.String())
		}
	}
}

func TestAgain(t *testing.T) {
	const run = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":31.5}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"run","Package":"p","Test":"TestB/good"}
{"Action":"pass","Package":"p","Test":"TestB/good"}
{"Action":"run","Package":"p","Test":"TestB/bad"}
{"Action":"fail","Package":"p","Test":"TestB/bad"}
{"Action":"fail","Package":"p","Test":"TestB"}
`
	for name, c := range map[string]struct {
		rest           string
		again          string
		passed, failed int
	}{
		"failed":  {`{"Action":"fail","Package":"p"}` + "\n", "TestB", 1, 0},
		"crashed": {`{"Action":"run","Package":"p","Test":"TestC"}` + "\n" + `{"Action":"fail","Package":"p"}` + "\n", "", 2, 3},
	} {
		t.Run(name, func(t *testing.T) {
			var totals Totals
			var out strings.Builder
			if err := totals.Run(strings.NewReader(run+c.rest), &out, "freebsd"); err != nil {
				t.Fatal(err)
			}
			if want := "freebsd: p TestA passed, 32s\n"; strings.Count(out.String(), " passed, ") != 2 || !strings.Contains(out.String(), want) {
				t.Errorf("output lacks %q, or has more:\n%s", want, out.String())
			}
			if again := strings.Join(totals.Again(), " "); again != c.again || totals.Passed != c.passed || totals.Failed != c.failed {
				t.Errorf("again %q, then %+v", again, totals)
			}
			var sum strings.Builder
			if totals.Summary(&sum); strings.Contains(sum.String(), "ran again:\n  freebsd: p TestB/bad") != (c.again != "") {
				t.Errorf("summary:\n%s", sum.String())
			}
		})
	}
	var passed Totals
	if err := passed.Run(strings.NewReader(`{"Action":"pass","Package":"p","Test":"TestA"}`), &strings.Builder{}, "freebsd"); err != nil {
		t.Fatal(err)
	}
	if again := passed.Again(); len(again) > 0 || passed.Passed != 1 {
		t.Errorf("again %q, then %+v", again, passed)
	}
}
