// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package limits

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/internal/sandbox"
)

const childOf = "SKEP_LIMITS_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childOf) != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

// child takes as much as it gets of what it is to take, once its standard input has ended.
func child() int {
	io.Copy(io.Discard, os.Stdin)
	switch os.Getenv(childOf) {
	case "threads":
		return threads()
	case "spin":
		return spin()
	}
	for n := 0; ; n++ {
		if _, err := unix.Dup(1); err != nil {
			fmt.Println(n, err)
			return 0
		}
		if n > 2*sandbox.Files {
			fmt.Println(n, "files")
			return 1
		}
	}
}

// threads has goroutines that keep a thread each: one that gets none ends the process.
func threads() int {
	for range 2 * sandbox.Threads {
		started := make(chan bool)
		go func() {
			runtime.LockOSThread()
			started <- true
			select {}
		}()
		<-started
	}
	fmt.Println(2*sandbox.Threads, "threads")
	return 1
}

// spin keeps two processors busy for spinTime, and says how many it had.
func spin() int {
	end := time.Now().Add(spinTime)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for n := 0; n%1000 != 0 || time.Now().Before(end); n++ {
			}
		})
	}
	wg.Wait()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		fmt.Println(err)
		return 1
	}
	used := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	fmt.Printf("%.2f", used.Seconds()/spinTime.Seconds())
	return 0
}

const spinTime = 20 * time.Second

// TestProcessorTime: threads that never rest are held to what a rule says, and get
// what they would get anyway where it says more. A testbed may have one processor,
// so the first rule is of less than any worker's.
func TestProcessorTime(t *testing.T) {
	h, err := Open()
	if err != nil {
		t.Skipf("NOT RUN, for this host keeps no rules: %v", err)
	}
	free := spinning(t, nil)
	third := spinning(t, func(pid int) error {
		_, err := rctl(unix.SYS_RCTL_ADD_RULE, fmt.Sprintf("process:%d:pcpu:deny=30", pid))
		return err
	})
	worker := spinning(t, func(pid int) error {
		return h.Bind(pid, Bounds{CPUs: 1, Memory: 64 << 20})
	})
	t.Logf("processors: %.2f without a rule, %.2f with a rule of 0.3, %.2f with a worker's", free, third, worker)
	if third > 0.75*free || worker < 0.7*free {
		t.Error("the rules do not bound what they should")
	}
}

// spinning is how many processors spin had.
func spinning(t *testing.T, bind func(pid int) error) (had float64) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childOf+"=spin")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if bind != nil {
		err = bind(cmd.Process.Pid)
	}
	in.Close()
	werr := cmd.Wait()
	if _, serr := fmt.Sscan(out.String(), &had); err != nil || werr != nil || serr != nil {
		t.Fatalf("%q: %v", &out, errors.Join(err, werr, serr))
	}
	return had
}

// TestRules: a process has the rules that it was given, is bound by them, and they
// go with it. A kernel that keeps none says so.
func TestRules(t *testing.T) {
	h, err := Open()
	for what, refused := range map[string]string{"files": unix.EMFILE.Error(), "threads": "failed to create new OS thread"} {
		t.Run(what, func(t *testing.T) { testRules(t, h, err, what, refused) })
	}
}

func testRules(t *testing.T, h *Host, err error, what, refused string) {
	exe, exeErr := os.Executable()
	if exeErr != nil {
		t.Fatal(exeErr)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childOf+"="+what)
	in, inErr := cmd.StdinPipe()
	if inErr != nil {
		t.Fatal(inErr)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	bounds := Bounds{CPUs: 1, Memory: 64 << 20}
	if bindErr := h.Bind(pid, bounds); bindErr != nil {
		t.Errorf("rules: %v", bindErr)
	}
	filter := fmt.Sprintf("process:%d", pid)
	rules, rulesErr := rctl(unix.SYS_RCTL_GET_RULES, filter)
	in.Close()
	waitErr := cmd.Wait()
	if err != nil {
		t.Logf("NOT RUN, for this host keeps no rules: %v", err)
		if !errors.Is(err, errors.ErrUnsupported) || !errors.Is(rulesErr, unix.ENOSYS) {
			t.Errorf("%v; rules %q, %v", err, rules, rulesErr)
		}
		return
	}
	t.Logf("rules %s, %v", rules, rulesErr)
	for _, want := range bounds.rules(pid) {
		if !strings.Contains(","+rules+",", ","+want+",") {
			t.Errorf("%s is not among %q", want, rules)
		}
	}
	if !strings.Contains(out.String(), refused) {
		t.Errorf("it took %.500s: %v", out.String(), waitErr)
	}
	if rules, err := rctl(unix.SYS_RCTL_GET_RULES, filter); err == nil && rules != "" {
		t.Errorf("its rules are left: %s", rules)
	}
}
