// SPDX-License-Identifier: BSD-2-Clause

// Package report reads what go test -json prints, shows a line a package and
// the whole output of what failed, and keeps totals over several runs.
//
// It is imported by cmd/skep-testbed alone.
package report

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// Totals are counts over several runs, kept in a file.
type Totals struct {
	Passed, Failed, Skipped int
	Failures                []string
}

// Load reads totals; a missing or empty file holds none.
func Load(path string) (Totals, error) {
	var t Totals
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) || err == nil && len(b) == 0 {
		return t, nil
	}
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal(b, &t); err != nil {
		return t, fmt.Errorf("totals %s: %w", path, err)
	}
	return t, nil
}

// AddTo adds the counts to those in the file, which must exist: several runs side
// by side may.
func (t Totals) AddTo(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close() // which gives up the lock
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock totals %s: %w", path, err)
	}
	sum, err := Load(path)
	if err != nil {
		return err
	}
	sum.Passed += t.Passed
	sum.Failed += t.Failed
	sum.Skipped += t.Skipped
	sum.Failures = append(sum.Failures, t.Failures...)
	b, err := json.Marshal(sum)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0) // never shorter than before
	return err
}

// Fail adds a failure that is no test.
func (t *Totals) Fail(what string) {
	t.Failed++
	t.Failures = append(t.Failures, what)
}

// Summary prints what failed and, as the last line, the counts.
func (t Totals) Summary(w io.Writer) {
	if len(t.Failures) > 0 {
		fmt.Fprintln(w, "failed:")
		for _, f := range t.Failures {
			fmt.Fprintln(w, "  "+f)
		}
	}
	if t.Skipped > 0 {
		fmt.Fprintf(w, "%d skipped\n", t.Skipped)
	}
	fmt.Fprintf(w, "%d passed, %d failed\n", t.Passed, t.Failed)
}

// event is a line of go test -json (go doc test2json).
type event struct {
	Action, Package, Test, Output, ImportPath, FailedBuild string
	Elapsed                                                float64
}

// maxOutput bounds what is kept of one test's output.
const maxOutput = 256 << 10

// Run reads events until the end, shows them under title and adds them to t.
func (t *Totals) Run(r io.Reader, w io.Writer, title string) error {
	output := map[string][]byte{} // of tests, and of packages under their name alone
	failedIn := map[string]int{}
	passedIn := map[string]int{}
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			t.line(strings.TrimSuffix(line, "\n"), w, title, output, passedIn, failedIn)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *Totals) line(line string, w io.Writer, title string, output map[string][]byte, passedIn, failedIn map[string]int) {
	var e event
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
		fmt.Fprintln(w, line) // go's own words, or the testbed's
		return
	}
	key := e.Package + " " + e.Test
	show := func() {
		_, _ = w.Write(output[key])
		delete(output, key)
	}
	switch e.Action {
	case "output":
		if len(output[key]) < maxOutput {
			output[key] = append(output[key], e.Output...)
		}
	case "build-output":
		fmt.Fprint(w, e.Output)
	case "pass", "skip", "fail":
		switch {
		case e.Test == "" && e.Action == "fail":
			show()
			if failedIn[e.Package] == 0 { // it did not build, crashed or ran out of time
				t.Fail(title + ": " + e.Package)
			}
			fmt.Fprintf(w, "%s: FAIL %s: %d passed, %d failed, %.1fs\n", title, e.Package, passedIn[e.Package], failedIn[e.Package], e.Elapsed)
		case e.Test == "" && e.Action == "pass":
			if passedIn[e.Package] > 0 {
				fmt.Fprintf(w, "%s: ok   %s: %d passed, %.1fs\n", title, e.Package, passedIn[e.Package], e.Elapsed)
			}
		case e.Action == "fail":
			failedIn[e.Package]++
			t.Fail(title + ": " + e.Package + " " + e.Test)
			show()
		case e.Action == "pass":
			passedIn[e.Package]++
			t.Passed++
		case e.Test != "":
			t.Skipped++
			show() // a skipped test must not look like one that passed
		}
		delete(output, key)
	}
}
