// SPDX-License-Identifier: BSD-2-Clause

package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// Totals are counts over several runs, kept in a file.
type Totals struct {
	Passed, Failed, Skipped int
	Failures                []string
	Repeated                []string // failed, and ran once more

	ended []ended
	cut   bool // a package ended otherwise than by its tests
}

// ended is a test that passed or failed.
type ended struct {
	test   string
	failed bool
}

// Again takes the tests that failed out of the counts of a run of one package, with
// what their subtests passed, and returns their names: they may run once more.
// Where not all has run, by a crash or a limit, it returns none and changes nothing.
func (t *Totals) Again() (tests []string) {
	if t.cut {
		return nil
	}
	top := func(e ended) string { name, _, _ := strings.Cut(e.test, "/"); return name }
	for _, e := range t.ended {
		if e.failed && !slices.Contains(tests, top(e)) {
			tests = append(tests, top(e))
		}
	}
	for _, e := range t.ended {
		if !e.failed && slices.Contains(tests, top(e)) {
			t.Passed--
		}
	}
	t.Repeated = append(t.Repeated, t.Failures...)
	t.Failed, t.Failures = 0, nil
	return tests
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
	sum.Repeated = append(sum.Repeated, t.Repeated...)
	b, err := json.Marshal(sum)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0) // never shorter than before
	return err
}

// Fail adds a failure by name and, where known, its cause.
func (t *Totals) Fail(what string) {
	t.Failed++
	t.Failures = append(t.Failures, what)
}

// Summary prints what failed and, as the last line, the counts.
func (t Totals) Summary(w io.Writer) {
	list := func(title string, tests []string) {
		if len(tests) == 0 {
			return
		}
		fmt.Fprintln(w, title)
		for _, f := range tests {
			fmt.Fprintln(w, "  "+f)
		}
	}
	list("failed, and ran again:", t.Repeated)
	list("failed:", t.Failures)
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

// maxOutput bounds what is kept of one test's output, maxCause what is said of it
// once more in the summary.
const (
	maxOutput = 256 << 10
	maxCause  = 300
	long      = 30 // seconds; a test that takes longer is told of when it ends
)

// pkg is what one run has told so far of one package.
type pkg struct {
	output         map[string][]byte // of its tests, and its own under ""
	running        []string          // in order of their starts
	passed, failed int
}

// Run reads events until the end, shows them under title and adds them to t.
func (t *Totals) Run(r io.Reader, w io.Writer, title string) error {
	pkgs := map[string]*pkg{}
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			t.line(strings.TrimSuffix(line, "\n"), w, title, pkgs)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *Totals) line(line string, w io.Writer, title string, pkgs map[string]*pkg) {
	var e event
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
		fmt.Fprintln(w, line) // go's own words, or the testbed's
		return
	}
	p := pkgs[e.Package]
	if p == nil {
		p = &pkg{output: map[string][]byte{}}
		pkgs[e.Package] = p
	}
	show := func(test string) { _, _ = w.Write(p.output[test]) }
	switch e.Action {
	case "run":
		p.running = append(p.running, e.Test)
	case "output":
		if len(p.output[e.Test]) < maxOutput {
			p.output[e.Test] = append(p.output[e.Test], e.Output...)
		}
	case "build-output":
		fmt.Fprint(w, e.Output)
	case "pass", "skip", "fail":
		switch {
		case e.Test == "" && e.Action == "fail":
			// It did not build, crashed or ran out of time: what ran then says why.
			t.cut = t.cut || len(p.running) > 0 || p.failed == 0
			for i := len(p.running) - 1; i >= 0; i-- {
				p.failed++
				show(p.running[i])
				t.Fail(title + ": " + e.Package + " " + p.running[i] + " did not end" + cause(p.output[p.running[i]]))
			}
			show("")
			if p.failed == 0 {
				t.Fail(title + ": " + e.Package)
			}
			fmt.Fprintf(w, "%s: FAIL %s: %d passed, %d failed, %.1fs\n", title, e.Package, p.passed, p.failed, e.Elapsed)
		case e.Test == "" && e.Action == "pass":
			if p.passed > 0 {
				fmt.Fprintf(w, "%s: ok   %s: %d passed, %.1fs\n", title, e.Package, p.passed, e.Elapsed)
			}
		case e.Action == "fail":
			p.failed++
			t.ended = append(t.ended, ended{e.Test, true})
			t.Fail(title + ": " + e.Package + " " + e.Test + cause(p.output[e.Test]))
			show(e.Test)
		case e.Action == "pass":
			p.passed++
			t.Passed++
			t.ended = append(t.ended, ended{e.Test, false})
			if e.Elapsed >= long {
				fmt.Fprintf(w, "%s: %s %s passed, %.0fs\n", title, path.Base(e.Package), e.Test, e.Elapsed)
			}
		case e.Test != "":
			t.Skipped++
			show(e.Test) // a skipped test must not look like one that passed
		}
		if e.Test == "" {
			delete(pkgs, e.Package)
			return
		}
		delete(p.output, e.Test)
		p.running = slices.DeleteFunc(p.running, func(n string) bool { return n == e.Test })
	}
}

// said is a line that a test logged, or the reason of a crash.
var said = regexp.MustCompile(`(?m)^(panic: .*|fatal error: .*|\s+\S+_test\.go:\d+: .*)$`)

// cause is the last that a test said, in short.
func cause(output []byte) string {
	all := said.FindAll(output, -1)
	if len(all) == 0 {
		return ""
	}
	last := bytes.TrimSpace(all[len(all)-1])
	if len(last) > maxCause {
		last = last[:maxCause]
	}
	return ": " + strings.ToValidUTF8(string(last), "?")
}
