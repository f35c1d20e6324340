// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/skepvm/skep/internal/worker"
)

// An attempt is what a guest that has broken out of its VMM would try next, with
// how the kernel answers: 0 is what a guest's requests come down to, and goes on.
// The operating system has the lists.
type attempt struct {
	name string
	try  func(disk int) error
	want syscall.Errno
}

// asExpected is said of an attempt that was answered as it should be.
const asExpected = "as it should be"

// probe tries everything, in a worker that is shut in, and says on the console how
// it was answered. f is nil for one without a machine.
func probe(console io.Writer, disk int, f *vmFiles) {
	for _, a := range attempts(f) {
		how := asExpected
		if err := a.try(disk); a.want == 0 && err != nil || a.want != 0 && !errors.Is(err, a.want) {
			how = fmt.Sprintf("%v, want %v", err, a.want)
		}
		fmt.Fprintf(console, "probe %s: %s\n", a.name, how)
	}
	fmt.Fprintln(console, "probed")
}

// probeWorker has the worker of a machine try n attempts.
func probeWorker(t *testing.T, m *Machine, n int) {
	t.Helper()
	c, err := m.Console(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, "probe")
	// Before any of the lines there may be the first half of one of the guest's.
	for sc := bufio.NewScanner(c); sc.Scan() && !strings.HasSuffix(sc.Text(), "probed"); {
		_, what, is := strings.Cut(sc.Text(), "probe ")
		what, how, answered := strings.Cut(what, ": ")
		if !is || !answered {
			continue
		}
		if n--; how != asExpected {
			t.Errorf("%s: %s", what, how)
		}
	}
	if n != 0 {
		t.Errorf("%d attempts more were to be answered", n)
	}
}

// probing is a real guest. The line "probe" on its console does not reach it: its
// worker then tries what such a guest might.
type probing struct {
	worker.Guest
	in *lineWriter
}

func buildProbing(cfg worker.Config, env worker.Env) (worker.Guest, error) {
	g, err := buildGuest(cfg, env)
	if err != nil {
		return nil, err
	}
	f, err := openVM(cfg)
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	in := g.Input()
	return &probing{Guest: g, in: &lineWriter{line: func(s string) {
		if s == "probe" {
			probe(env.Console, cfg.Files[worker.FileDisk], f)
			return
		}
		io.WriteString(in, s+"\n")
	}}}, nil
}

func (p *probing) Input() io.Writer { return p.in }

func TestSandbox(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	m := create(t, h, spec("vm1"))
	probeWorker(t, m, len(attempts(nil)))
	typeLine(t, m, "hello") // the guest runs on
	checkConfined(t, m.Status().WorkerPID)
	if err := m.Stop(t.Context(), StopOptions{}); err != nil {
		t.Error(err)
	}
	p.destroyAll(t, h)
}
