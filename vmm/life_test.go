// SPDX-License-Identifier: BSD-2-Clause

package vmm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skepvm/skep/vmm/hv"
)

// bench is a machine on the fake backend with two probes among its devices.
type bench struct {
	t      testing.TB
	m      *Machine
	vm     *fakeVM
	loads  atomic.Int32
	log    []string
	a, b   *probe
	events []Event
	ran    chan struct{}
	end    End
	err    error
}

func newBench(t testing.TB, cpus int, change func(*Config)) *bench {
	t.Helper()
	b := &bench{t: t, ran: make(chan struct{})}
	fake := &fakeBackend{}
	cfg := Config{CPUs: cpus, Memory: MinMemory, Boot: fakeBoot{loads: &b.loads}, Backend: fake, NoRNG: true,
		Events: func(e Event) { b.events = append(b.events, e) }}
	if change != nil {
		change(&cfg)
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.m, b.vm = m, fake.vms[0]
	b.a = &probe{t: t, vm: b.vm, name: "a", log: &b.log}
	b.b = &probe{t: t, vm: b.vm, name: "b", log: &b.log}
	m.devices = append(m.devices, b.a, b.b)
	return b
}

func (b *bench) run() {
	go func() {
		defer close(b.ran)
		b.end, b.err = b.m.Run(context.Background())
	}()
	for b.m.State() == Created {
		time.Sleep(time.Microsecond)
	}
}

// guest makes a vCPU do something inside Run, unless the machine ends first.
func (b *bench) guest(cpu int, f func(hv.Handler) (hv.Exit, error)) {
	select {
	case b.vm.cpus[cpu].do <- f:
	case <-b.ran:
	}
}

func (b *bench) close() {
	if err := b.m.Close(); err != nil {
		b.t.Error(err)
	}
	if s := b.vm.wrong.Load(); s != nil {
		b.t.Error(*s)
	}
	if b.vm.closed.Load() != 1 {
		b.t.Errorf("the machine was closed %d times in the kernel", b.vm.closed.Load())
	}
	if b.a.state != "closed" || b.b.state != "closed" {
		b.t.Errorf("devices end as %q and %q", b.a.state, b.b.state)
	}
	for _, c := range b.m.cpus {
		select {
		case <-c.gone:
		default:
			if b.end.Cause != 0 {
				b.t.Error("a vCPU's goroutine is left")
			}
		}
	}
}

// ops are what can happen to a machine, and what the model says comes of it.
var ops = []struct {
	name string
	do   func(*bench) error
	next func(s State) (State, Cause, int) // new state, cause if it ends, resets
}{
	{"pause", func(b *bench) error { return b.m.Pause(context.Background()) }, func(State) (State, Cause, int) { return Paused, 0, 0 }},
	{"resume", func(b *bench) error { return b.m.Resume(context.Background()) }, func(State) (State, Cause, int) { return Running, 0, 0 }},
	{"reset", func(b *bench) error { return b.m.Reset(context.Background()) }, func(s State) (State, Cause, int) { return s, 0, 1 }},
	{"button", func(b *bench) error { return b.m.PowerButton(context.Background()) }, func(s State) (State, Cause, int) { return s, 0, 0 }},
	{"registers", func(b *bench) error {
		r, err := b.m.Registers(context.Background())
		if err == nil && len(r) != len(b.m.cpus) {
			err = fmt.Errorf("%d vCPUs' registers", len(r))
		}
		return err
	}, func(s State) (State, Cause, int) { return s, 0, 0 }},
	{"guest resets", func(b *bench) error {
		n := b.m.reboots.Load()
		b.guest(len(b.m.cpus)-1, func(h hv.Handler) (hv.Exit, error) { h.PortWrite(0xcf9, 1, 6); return nil, nil })
		for b.m.reboots.Load() == n && b.m.State() == Running {
			time.Sleep(time.Microsecond)
		}
		return nil
	}, func(State) (State, Cause, int) { return Running, 0, 1 }},
	{"guest powers off", func(b *bench) error {
		b.guest(0, func(h hv.Handler) (hv.Exit, error) { h.PortWrite(0x404, 2, 5<<10|1<<13); return nil, nil })
		<-b.ran
		return nil
	}, func(State) (State, Cause, int) { return Ended, PowerOff, 0 }},
	{"triple fault", func(b *bench) error {
		b.guest(0, func(hv.Handler) (hv.Exit, error) { return hv.Shutdown{}, nil })
		<-b.ran
		return nil
	}, func(State) (State, Cause, int) { return Ended, TripleFault, 0 }},
	{"kill", func(b *bench) error { b.m.Kill(); <-b.ran; return nil }, func(State) (State, Cause, int) { return Ended, Killed, 0 }},
}

// TestEverySequence walks every sequence of operations to a depth: the machine
// must be where the model is, and every device must see the contract kept.
func TestEverySequence(t *testing.T) {
	depth := 4
	if testing.Short() {
		depth = 3
	}
	walk(depth, func(path []int) bool { return play(t, path, nil, nil) || t.Failed() })
}

// TestEverySequenceOfDevices is the same with a virtio device of every kind:
// whatever has been, a guest that runs finds each of them working, as after a
// boot.
func TestEverySequenceOfDevices(t *testing.T) {
	depth := 3
	if testing.Short() {
		depth = 2
	}
	walk(depth, func(path []int) bool {
		return play(t, path, withDevices, func(b *bench) {
			b.inside(0, func(h hv.Handler) { useDevices(t, b.m, h) })
		}) || t.Failed()
	})
}

// walk plays every sequence of ops to a depth, and goes no further along one
// that play says is over.
func walk(depth int, play func(path []int) (over bool)) {
	var step func(path []int)
	step = func(path []int) {
		if play(path) || len(path) == depth {
			return
		}
		for i := range ops {
			step(append(path[:len(path):len(path)], i))
		}
	}
	step(nil)
}

// play runs one sequence and reports whether the machine ended by it. check, if
// not nil, looks at the machine whenever it runs.
func play(t *testing.T, path []int, change func(*Config), check func(*bench)) (over bool) {
	var names []string
	for _, i := range path {
		names = append(names, ops[i].name)
	}
	b := newBench(t, 2, change)
	b.run()
	if check != nil {
		check(b)
	}
	state, resets := Running, 0
	for _, i := range path {
		guest := strings.HasPrefix(ops[i].name, "guest") || ops[i].name == "triple fault"
		if guest && state != Running {
			continue // a guest that rests does nothing
		}
		if err := ops[i].do(b); err != nil {
			t.Errorf("%v: %s: %v", names, ops[i].name, err)
		}
		next, cause, n := ops[i].next(state)
		state, resets = next, resets+n
		if cause != 0 {
			over = true
			if b.end.Cause != cause || b.end.Reboots != resets {
				t.Errorf("%v: ended by %v after %d reboots, want %v after %d", names, b.end.Cause, b.end.Reboots, cause, resets)
			}
			if (b.err == nil) != (cause == PowerOff || cause == Killed) {
				t.Errorf("%v: %v: error %v", names, cause, b.err)
			}
			break
		}
		if got := b.m.State(); got != state {
			t.Errorf("%v: after %s the machine is %v, want %v", names, ops[i].name, got, state)
		}
		if state == Running && check != nil {
			check(b)
		}
	}
	b.close()
	<-b.ran
	if got := int(b.loads.Load()); got != resets+1 {
		t.Errorf("%v: booted %d times, want %d", names, got, resets+1)
	}
	if n := len(b.events); n < 2 || b.events[0].Kind != EventStarted || b.events[n-1].Kind != EventEnded {
		t.Errorf("%v: events %v", names, b.events)
	}
	if t.Failed() {
		t.Logf("%v: device calls: %v", names, b.log)
	}
	return over
}

// TestOrder holds the order of the calls to what the package says.
func TestOrder(t *testing.T) {
	b := newBench(t, 1, nil)
	b.run()
	ctx := context.Background()
	if err := errors.Join(b.m.Pause(ctx), b.m.Resume(ctx), b.m.Reset(ctx)); err != nil {
		t.Fatal(err)
	}
	b.close()
	want := []string{"a start", "b start", "a pause", "b pause", "b resume", "a resume",
		"a pause", "b pause", "a reset", "b reset", "b resume", "a resume", "b halt", "a halt", "b close", "a close"}
	if !reflect.DeepEqual(b.log, want) {
		t.Errorf("%q\nwant %q", b.log, want)
	}
	if s := b.vm.cpus[0].state.RIP; s != 0x1002 {
		t.Errorf("the boot vCPU begins at %#x after the reset", s)
	}
}

// TestResetWhilePaused: the machine stays paused and boots when it is resumed.
func TestResetWhilePaused(t *testing.T) {
	b := newBench(t, 2, nil)
	b.run()
	ctx := context.Background()
	if err := errors.Join(b.m.Pause(ctx), b.m.Reset(ctx), b.m.Reset(ctx)); err != nil {
		t.Fatal(err)
	}
	if b.m.State() != Paused || b.vm.cpus[0].sets != 1 {
		t.Fatalf("%v, state set %d times", b.m.State(), b.vm.cpus[0].sets)
	}
	if err := b.m.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	b.guest(0, func(hv.Handler) (hv.Exit, error) { return hv.Shutdown{}, nil })
	<-b.ran
	if b.end.Registers == nil || b.end.Registers.RIP != 0x1003 || b.end.VCPU != 0 || b.end.Reboots != 2 {
		t.Errorf("%+v", b.end)
	}
	if b.vm.cpus[1].sets != 0 {
		t.Error("the second vCPU's state was set")
	}
	b.close()
}

// TestExitsEnd: whatever a vCPU comes out with, the machine ends and says it.
func TestExitsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		exit  hv.Exit
		err   error
		panic bool
		cause Cause
		text  string
	}{
		"failed":    {exit: hv.Failed{Reason: "the reason", Code: 7, Inst: []byte{0x0f, 0x0b}}, cause: Failed, text: "the reason (code 0x7), instruction 0f 0b"},
		"error":     {err: errFake, cause: Failed, text: errFake.Error()},
		"panic":     {panic: true, cause: Failed, text: "internal error: a defect"},
		"halted":    {exit: hv.Halted{}, cause: Halted, text: "interrupts off"},
		"destroyed": {exit: hv.Destroyed{}, cause: Failed, text: "from outside"},
		"shutdown":  {exit: hv.Shutdown{}, cause: TripleFault, text: "triple fault on vCPU 1 at rip"},
		"lost":      {exit: hv.Shutdown{Last: &hv.State{RIP: 0xbad}}, cause: TripleFault, text: "at rip 0xbad: the processor has lost"},
		"power off": {exit: hv.SystemPowerOff{}, cause: PowerOff},
		"unknown":   {exit: strangeExit{hv.Interrupted{}}, cause: Failed, text: "unknown exit"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 2, nil)
			b.run()
			b.guest(1, func(hv.Handler) (hv.Exit, error) {
				if c.panic {
					panic("a defect")
				}
				return c.exit, c.err
			})
			<-b.ran
			if b.end.Cause != c.cause || !strings.Contains(b.end.String(), c.text) {
				t.Errorf("%v, want %v with %q", b.end, c.cause, c.text)
			}
			if c.cause != PowerOff && (b.end.VCPU != 1 || b.end.Registers == nil || b.err == nil) {
				t.Errorf("%+v (%v)", b.end, b.err)
			}
			b.close()
		})
	}
}

type strangeExit struct{ hv.Exit }

// TestFailures: each step that can fail ends the machine and leaves nothing.
func TestFailures(t *testing.T) {
	ctx := context.Background()
	for _, what := range []string{"SetState", "Reset", "ZeroMemory", "Pause", "Resume", "start", "pause", "resume", "load 1", "load 2"} {
		t.Run(what, func(t *testing.T) {
			//lint:ignore S1021 the closures refer to it
			var b *bench
			b = newBench(t, 1, func(c *Config) {
				c.Boot = fakeBoot{loads: new(atomic.Int32), loadErr: func(n int32) error {
					if what == fmt.Sprintf("load %d", n) {
						return errFake
					}
					return nil
				}}
			})
			b.b.failAt = what
			b.vm.failing.Store(&what)
			b.run()
			_ = b.m.Pause(ctx)
			_ = b.m.Resume(ctx)
			_ = b.m.Reset(ctx)
			select {
			case <-b.ran:
			case <-time.After(10 * time.Second):
				t.Fatal("the machine did not end")
			}
			if b.end.Cause != Failed || !strings.Contains(b.end.Detail, errFake.Error()) {
				t.Errorf("%v", b.end)
			}
			b.b.failAt = ""
			b.close()
		})
	}
}

func TestMethodsOutsideLife(t *testing.T) {
	ctx := context.Background()
	b := newBench(t, 1, nil)
	if err := b.m.Pause(ctx); !errors.Is(err, ErrState) {
		t.Error(err)
	}
	b.run()
	if _, err := b.m.Run(ctx); !errors.Is(err, ErrState) {
		t.Error(err)
	}
	b.m.Kill()
	<-b.ran
	for name, f := range map[string]func(context.Context) error{"pause": b.m.Pause, "resume": b.m.Resume, "reset": b.m.Reset, "button": b.m.PowerButton} {
		if err := f(ctx); !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), b.m.Name()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.m.Kill()
	if _, err := b.m.SerialInput().Write([]byte("x")); !errors.Is(err, ErrEnded) {
		t.Errorf("input to a machine that has ended: %v", err)
	}
	if _, err := b.m.ConsoleInput().Write([]byte("x")); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	b.close()
	if err := b.m.Close(); err != nil {
		t.Error(err)
	}
}

// ownBackend is one that New opened.
type ownBackend struct {
	*fakeBackend
	closed int
}

func (b *ownBackend) Close() error { b.closed++; return nil }

// boundBackend is one that can be confined.
type boundBackend struct {
	ownBackend
	bound int
}

func (b *boundBackend) Confine() error { b.bound++; return nil }

// Confined, a machine has no backend open any more, or a confined one, and runs
// all the same; one that has begun to run is not confined.
func TestConfine(t *testing.T) {
	b := newBench(t, 1, nil)
	bound := &boundBackend{}
	b.m.backend = bound
	if err := b.m.Confine(); err != nil || bound.bound != 1 || bound.closed != 0 {
		t.Errorf("%v; backend confined %d times, closed %d times", err, bound.bound, bound.closed)
	}
	b.close()
	if bound.closed != 1 {
		t.Errorf("the backend was closed %d times", bound.closed)
	}
	b = newBench(t, 1, nil)
	own := &ownBackend{}
	b.m.backend = own
	if err := b.m.Confine(); err != nil || b.vm.bound.Load() != 1 || own.closed != 1 {
		t.Errorf("%v; confined %d times, backend closed %d times", err, b.vm.bound.Load(), own.closed)
	}
	b.run()
	if err := b.m.Confine(); !errors.Is(err, ErrState) {
		t.Error(err)
	}
	b.m.Kill()
	<-b.ran
	b.close()
	if own.closed != 1 {
		t.Errorf("the backend was closed %d times", own.closed)
	}
	b = newBench(t, 1, nil) // with a caller's backend, which complains when closed
	what := "Confine"
	b.vm.failing.Store(&what)
	if err := b.m.Confine(); !errors.Is(err, errFake) || !strings.Contains(err.Error(), b.m.Name()) {
		t.Errorf("a failure: %v", err)
	}
	b.close()
}

// TestContextEnds: Run's context ends the machine, and a waiting call too.
func TestContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, nil)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		end, err := b.m.Run(ctx)
		if end.Cause != Killed || err != nil || end.Uptime != time.Second {
			t.Errorf("%v %v %v", end, err, end.Uptime)
		}
		b.close()
	})
}

// TestStorm: many callers at once, while the guest resets and halts its way.
func TestStorm(t *testing.T) {
	b := newBench(t, 4, nil)
	b.run()
	ctx, done := context.WithCancel(context.Background())
	var wg atomic.Int32
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Add(-1)
			for n := range 50 {
				switch (i + n) % 5 {
				case 0:
					_ = b.m.Pause(ctx)
				case 1, 2:
					_ = b.m.Resume(ctx)
				case 3:
					_ = b.m.Reset(ctx)
				case 4:
					b.m.ask(wantReset) // as if from outside a vCPU
				}
			}
		}()
	}
	for wg.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
	done()
	// It is alive: every vCPU can be reached.
	if err := b.m.Resume(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		hit := make(chan struct{})
		select {
		case b.vm.cpus[i].do <- func(hv.Handler) (hv.Exit, error) { close(hit); return nil, nil }:
			<-hit
		case <-time.After(10 * time.Second):
			t.Fatalf("vCPU %d does not run", i)
		}
	}
	b.m.Kill()
	<-b.ran
	b.close()
}

// stuck is a device that pauses when it is let.
type stuck struct {
	*probe
	let chan struct{}
}

func (s *stuck) Pause() error { <-s.let; return s.probe.Pause() }

// TestPauseGivenUp: a caller who does not wait for a pause to its end leaves the
// machine running; one that was paused before stays so.
func TestPauseGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, nil)
		s := &stuck{b.a, make(chan struct{})}
		b.m.devices[len(b.m.devices)-2] = s
		b.run()
		giveUp := func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return b.m.Pause(ctx)
		}
		for range 3 {
			start := time.Now()
			if err := giveUp(); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
				t.Fatalf("after %v: %v", time.Since(start), err)
			}
			s.let <- struct{}{}
			synctest.Wait()
			if got := b.m.State(); got != Running || b.a.state != "running" {
				t.Fatalf("the machine is %v, a device %q", got, b.a.state)
			}
			for i := range 2 { // every vCPU runs
				b.guest(i, func(hv.Handler) (hv.Exit, error) { return nil, nil })
			}
		}
		if n := len(b.events); n != 7 || b.events[n-2].Kind != EventPaused || b.events[n-1].Kind != EventResumed {
			t.Errorf("events %v", b.events)
		}
		close(s.let)
		ctx, cancel := context.WithCancel(context.Background())
		if err := b.m.Pause(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		for range 20 { // handed over or not
			_ = b.m.Pause(ctx)
			_, _ = b.m.Registers(ctx)
		}
		synctest.Wait()
		if got := b.m.State(); got != Paused {
			t.Errorf("a paused machine is %v after a pause that was given up", got)
		}
		b.close()
		<-b.ran
	})
}

// TestCloseWithoutRun: who comes after it is told, and does not wait.
func TestCloseWithoutRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, nil)
		b.close()
		ctx := context.Background()
		_, regs := b.m.Registers(ctx)
		_, in := b.m.SerialInput().Write([]byte("x"))
		_, run := b.m.Run(ctx)
		for what, err := range map[string]error{"pause": b.m.Pause(ctx), "resume": b.m.Resume(ctx), "reset": b.m.Reset(ctx),
			"button": b.m.PowerButton(ctx), "registers": regs, "input": in} {
			if !errors.Is(err, ErrEnded) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if !errors.Is(run, ErrState) {
			t.Errorf("run: %v", run)
		}
		b.m.Kill()
	})
}

// TestInputEnds: whoever waits for the guest to take input is told when there is
// none any more, also if there never was.
func TestInputEnds(t *testing.T) {
	for name, c := range map[string]struct {
		loadErr error
		start   error
		run     bool
	}{
		"run":    {run: true},
		"close":  {},
		"load":   {loadErr: errFake, run: true},
		"device": {start: errFake, run: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, 1, func(cfg *Config) {
					cfg.Console = io.Discard
					cfg.Boot = fakeBoot{loads: new(atomic.Int32), loadErr: func(int32) error { return c.loadErr }}
				})
				if c.start != nil {
					b.a.failAt = "start"
				}
				ends := make(chan error, 2)
				for _, w := range []io.Writer{b.m.SerialInput(), b.m.ConsoleInput()} {
					go func() {
						_, err := w.Write(make([]byte, 1<<20)) // more than fits anywhere
						ends <- err
					}()
				}
				synctest.Wait()
				if c.run {
					b.run()
					b.m.Kill()
					<-b.ran
					synctest.Wait()
					if n := len(ends); n != 2 {
						t.Errorf("%d of 2 writers know that the machine has ended", n)
					}
				}
				b.close()
				for range 2 {
					if err := <-ends; !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), b.m.Name()) {
						t.Error(err)
					}
				}
			})
		})
	}
}
