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
	"testing"

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
	if os.Getenv(childOf) == "threads" {
		return threads()
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
