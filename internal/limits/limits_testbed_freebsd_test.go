// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package limits

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
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
	case "hold":
		return hold()
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

// hold has held bytes, which it has written once, and rests.
func hold() int {
	b, err := unix.Mmap(-1, 0, held, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = 1
	}
	fmt.Println("holds")
	time.Sleep(time.Hour)
	return int(b[0])
}

const held = 192 << 20

// TestMemoryIsTaken: what a process has in memory beyond its rule is taken from it, with
// or without swap to put it to, once the pager has seen that it rests: it looks every
// ten minutes by default. What a worker's rule allows it keeps.
func TestMemoryIsTaken(t *testing.T) {
	h, err := Open()
	if err != nil {
		t.Skipf("NOT RUN, for this host keeps no rules: %v", err)
	}
	const period = "vm.pageout_update_period"
	before, err := unix.SysctlUint32(period)
	if err == nil {
		err = setSysctl(period, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := setSysctl(period, before); err != nil {
			t.Error(err)
		}
	}()
	const bound = held / 3
	start := time.Now()
	bounded := holding(t, func(pid int) error {
		_, err := rctl(unix.SYS_RCTL_ADD_RULE, fmt.Sprintf("process:%d:memoryuse:deny=%d", pid, bound))
		return err
	})
	worker := holding(t, func(pid int) error {
		return h.Bind(pid, Bounds{CPUs: 1, Memory: held})
	})
	time.Sleep(5 * time.Second) // five times as often as the kernel looks
	if n := worker(); n < held {
		t.Errorf("%d MiB of %d, which a worker's rule allows", n>>20, held>>20)
	}
	for bounded() > bound {
		if time.Since(start) > 2*time.Minute {
			t.Fatalf("it has %d MiB, by its rule %d", bounded()>>20, bound>>20)
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("after %v %d MiB of %d, by its rule %d", time.Since(start).Round(time.Millisecond), bounded()>>20, held>>20, bound>>20)
	if n := worker(); n < held {
		t.Errorf("%d MiB of %d, which a worker's rule allows", n>>20, held>>20)
	}
}

// holding starts hold, and gives what it has in memory.
func holding(t *testing.T, bind func(pid int) error) func() int64 {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childOf+"=hold")
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if err := bind(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "holds\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return func() int64 {
		t.Helper()
		used, err := rctl(unix.SYS_RCTL_GET_RACCT, fmt.Sprintf("process:%d", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range strings.Split(used, ",") {
			if n, ok := strings.CutPrefix(word, "memoryuse="); ok {
				v, err := strconv.ParseInt(n, 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
		}
		t.Fatalf("no memoryuse in %q", used)
		return 0
	}
}

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
