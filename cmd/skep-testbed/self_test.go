// SPDX-License-Identifier: BSD-2-Clause

//go:build selftest && linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"
)

// These tests start testbeds. What runs inside is this test binary in one of
// the roles below.
const roleEnv = "SKEP_SELFTEST_ROLE"

var roles = map[string]func(){
	"exit7": func() {
		fmt.Println("to stdout")
		fmt.Fprintln(os.Stderr, "to stderr")
		os.Exit(7)
	},
	"describe": func() {
		wd, _ := os.Getwd()
		data, err := os.ReadFile("testdata/input")
		fmt.Printf("%s|%q|%s|%s|%v", wd, os.Args[1:], os.Getenv("SKEP_SELFTEST_WORD"), data, err)
	},
	"interrupted": func() {
		c := make(chan os.Signal, 1)
		signal.Notify(c, os.Interrupt)
		fmt.Println("ready")
		<-c
		os.Exit(9)
	},
	"wait":     func() { fmt.Println("ready"); forever() },
	"segfault": func() { _ = syscall.Kill(os.Getpid(), syscall.SIGSEGV); forever() },
	"kill":     func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL); forever() },
	"orphan": func() {
		cmd := exec.Command("sleep", "98765")
		cmd.Stdout = os.Stdout
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		fmt.Println("left one")
	},
	"count": func() { n, _ := io.Copy(io.Discard, os.Stdin); fmt.Print(n) },
	"pour": func() {
		line := bytes.Repeat([]byte("0123456789abcdef"), 64)
		for range 10 << 10 {
			os.Stdout.Write(line)
		}
	},
	"own": func() {
		// The same name in the same directory: each session has its own.
		name := "shared-name"
		if _, err := os.Stat(name); err == nil {
			fmt.Print("another's file is here")
			os.Exit(1)
		}
		if err := os.WriteFile(name, []byte(os.Getenv("SKEP_SELFTEST_WORD")), 0o644); err != nil {
			panic(err)
		}
		time.Sleep(500 * time.Millisecond)
		b, err := os.ReadFile(name)
		fmt.Printf("%s%v", b, err)
		os.Remove(name)
	},
	"write": func() {
		for name, content := range map[string]string{"testdata/new/file": "new", "testdata/input": "changed"} {
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				panic(err)
			}
			if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
				panic(err)
			}
		}
	},
}

var (
	binary string // skep-testbed
	self   string // this test binary
)

func TestMain(m *testing.M) {
	if role, ok := roles[os.Getenv(roleEnv)]; ok {
		role()
		os.Exit(0)
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "selftest")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "skep-testbed")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	if self, err = os.Executable(); err != nil {
		panic(err)
	}
	os.Setenv("SKEP_TESTBED", fmt.Sprintf("selftest-%d", os.Getpid()))
	for _, name := range []string{"SKEP_ZFS", "GOOS", "SKEP_TESTBED_FILES"} {
		os.Unsetenv(name)
	}
	if out, err := exec.Command(binary, "up").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "up: %v\n%s", err, out)
		return 1
	}
	defer exec.Command(binary, "down").Run()
	return m.Run()
}

// command is a role run through exec in dir.
func command(t *testing.T, dir, role string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, binary, append([]string{"exec", self}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	return cmd
}

// packageDir is a directory that looks like a package's.
func packageDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "testdata"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "testdata/input"), []byte("from outside"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func waitStatus(t *testing.T, err error) syscall.WaitStatus {
	t.Helper()
	if err == nil {
		return 0
	}
	var e *exec.ExitError
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	return e.Sys().(syscall.WaitStatus)
}

func inside(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(binary, append([]string{"exec"}, args...)...).Output()
	if err != nil {
		t.Fatalf("exec %q: %v", args, err)
	}
	return string(out)
}

func TestExitCodeAndOutput(t *testing.T) {
	var stdout, stderr strings.Builder
	cmd := command(t, packageDir(t), "exit7")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if st := waitStatus(t, cmd.Run()); st.ExitStatus() != 7 {
		t.Errorf("exit status %v, want 7", st)
	}
	if stdout.String() != "to stdout\n" || stderr.String() != "to stderr\n" {
		t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
	}
}

func TestSurroundings(t *testing.T) {
	dir := packageDir(t)
	cmd := command(t, dir, "describe", "-a", "b c", "")
	cmd.Env = append(cmd.Env, "SKEP_SELFTEST_WORD=two\nlines")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s|%q|%s|%s|%v", dir, []string{"-a", "b c", ""}, "two\nlines", "from outside", nil)
	if string(out) != want {
		t.Errorf("inside: %s\nwant:   %s", out, want)
	}
}

// begin starts a role and waits until it says that it is ready.
func begin(t *testing.T, role string) *exec.Cmd {
	t.Helper()
	cmd := command(t, packageDir(t), role)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, line); err != nil {
		t.Fatalf("%s did not begin: %v", role, err)
	}
	return cmd
}

func TestSignals(t *testing.T) {
	cmd := begin(t, "interrupted")
	_ = cmd.Process.Signal(os.Interrupt)
	if st := waitStatus(t, cmd.Wait()); st.ExitStatus() != 9 {
		t.Errorf("after SIGINT, which it handles: %v, want exit status 9", st)
	}
	cmd = begin(t, "wait")
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if st := waitStatus(t, cmd.Wait()); !st.Signaled() || st.Signal() != syscall.SIGTERM {
		t.Errorf("after SIGTERM: %#x, want that signal", st)
	}
	for role, want := range map[string]syscall.Signal{"kill": syscall.SIGKILL, "segfault": syscall.SIGSEGV} {
		if st := waitStatus(t, command(t, packageDir(t), role).Run()); !st.Signaled() || st.Signal() != want {
			// Go's runtime turns a SIGSEGV that was sent into exit status 2.
			if role != "segfault" || st.ExitStatus() != 2 {
				t.Errorf("%s inside: %#x, want %v", role, st, want)
			}
		}
	}
}

func TestNothingStaysInside(t *testing.T) {
	out, err := command(t, packageDir(t), "orphan").Output()
	if err != nil || string(out) != "left one\n" {
		t.Fatalf("%q, %v", out, err)
	}
	cmd := begin(t, "wait")
	_ = cmd.Process.Kill() // the command outside, with SIGKILL
	_ = cmd.Wait()
	cmd = command(t, packageDir(t), "wait")
	cmd.Args = append([]string{binary, "exec", "-limit", "2s"}, cmd.Args[2:]...)
	var said strings.Builder
	cmd.Stderr = &said
	if st := waitStatus(t, cmd.Run()); st.ExitStatus() != 125 || !strings.Contains(said.String(), "still ran after 2s") {
		t.Errorf("after its time limit: %#x, want exit status 125\n%s", st, said.String())
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		ps := inside(t, "ps", "-eo", "args")
		if !strings.Contains(ps, "98765") && !strings.Contains(ps, filepath.Base(self)) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left inside:\n%s", ps)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// TestShell works in a shell as a person does: on a terminal, whose settings it
// gets back, and with the shell's own exit status.
func TestShell(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	keys, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	defer tty.Close()
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, binary, "shell")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// What is typed is echoed: only what the shell made of it can match.
	var mu sync.Mutex
	var shown strings.Builder
	seen := make(chan struct{})
	go func() {
		buf := make([]byte, 4096)
		for told := false; ; {
			n, err := keys.Read(buf)
			mu.Lock()
			shown.Write(buf[:n])
			if !told && strings.Contains(shown.String(), "is:42:tty") {
				told = true
				close(seen)
			}
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	if _, err := io.WriteString(keys, "echo is:$((40+2)):$(test -t 0 && echo tty)\r"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-seen:
	case <-ctx.Done():
		mu.Lock()
		t.Errorf("the shell says %q", shown.String())
		mu.Unlock()
		_ = cmd.Wait()
		return
	}
	if _, err := io.WriteString(keys, "exit 3\r"); err != nil {
		t.Fatal(err)
	}
	if st := waitStatus(t, cmd.Wait()); st.ExitStatus() != 3 {
		t.Errorf("it ended with %#x, want exit status 3", st)
	}
	after, err := term.GetState(int(tty.Fd()))
	if err != nil || !reflect.DeepEqual(before, after) {
		t.Errorf("the terminal was left otherwise than it was found: %v", err)
	}
	// Without a terminal it says what to use instead.
	out, err := exec.Command(binary, "shell").CombinedOutput()
	if st := waitStatus(t, err); st.ExitStatus() != 125 || !strings.Contains(string(out), "shell needs a terminal; use exec") {
		t.Errorf("without a terminal: %#x, %q", st, out)
	}
}

func TestStreams(t *testing.T) {
	cmd := command(t, packageDir(t), "count")
	cmd.Stdin = bytes.NewReader(make([]byte, 3<<20))
	if out, err := cmd.Output(); err != nil || string(out) != fmt.Sprint(3<<20) {
		t.Errorf("standard input: %q bytes, %v", out, err)
	}
	out, err := command(t, packageDir(t), "pour").Output()
	want := bytes.Repeat([]byte("0123456789abcdef"), 64*10<<10)
	if err != nil || sha256.Sum256(out) != sha256.Sum256(want) {
		t.Errorf("standard output: %d bytes, want %d, %v", len(out), len(want), err)
	}
}

func TestParallel(t *testing.T) {
	dir := packageDir(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			cmd := command(t, dir, "own")
			word := fmt.Sprintf("word %d", i)
			cmd.Env = append(cmd.Env, "SKEP_SELFTEST_WORD="+word)
			if out, err := cmd.CombinedOutput(); err != nil || string(out) != word+"<nil>" {
				t.Errorf("%d: %q, %v", i, out, err)
			}
		})
	}
	wg.Wait()
}

func TestFilesComeBack(t *testing.T) {
	dir := packageDir(t)
	if out, err := command(t, dir, "write").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, want := range map[string]string{"testdata/new/file": "new", "testdata/input": "changed"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestGoTest(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":    "module sample\n\ngo 1.26\n",
		"s.go":      "package sample\n\nfunc Half(n int) int {\n\tif n < 0 {\n\t\treturn -Half(-n)\n\t}\n\treturn n / 2\n}\n",
		"s_test.go": "package sample\n\nimport \"testing\"\n\nfunc TestHalf(t *testing.T) {\n\tif Half(4) != 2 {\n\t\tt.Fatal()\n\t}\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "test", "-count=1", "-exec", binary+" exec", "-coverprofile=cover.out", "-cpuprofile=cpu.out", "-outputdir="+dir, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "coverage: 66.7%") {
		t.Fatalf("%v\n%s", err, out)
	}
	cover, err := os.ReadFile(filepath.Join(dir, "cover.out"))
	if err != nil || !strings.Contains(string(cover), "sample/s.go:3.22,4.11 1 1") {
		t.Errorf("coverage profile: %v\n%s", err, cover)
	}
	if st, err := os.Stat(filepath.Join(dir, "cpu.out")); err != nil || st.Size() == 0 {
		t.Errorf("CPU profile: %v", err)
	}
}

// mine lists processes that carry the mark in their environment.
func mine(t *testing.T, mark string) []string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range paths {
		if env, err := os.ReadFile(p); err == nil && bytes.Contains(env, []byte(mark)) {
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline"))
			out = append(out, fmt.Sprintf("%s %.60q", filepath.Base(filepath.Dir(p)), cmdline))
		}
	}
	return out
}

// gone waits until no process carries the mark and no address the name.
func gone(t *testing.T, mark, name string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		left := mine(t, mark)
		sockets, err := os.ReadFile("/proc/net/unix")
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 && !bytes.Contains(sockets, []byte("/"+name+"\n")) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: %q", left)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// files lists what a testbed could leave.
func files(t *testing.T) string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"/tmp/*", "/var/tmp/*", "/dev/shm/*", "/run/*skep*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			if strings.Contains(p, "skep-testbed") || strings.Contains(p, "qemu") || strings.Contains(p, "vl.") {
				all = append(all, p)
			}
		}
	}
	return strings.Join(all, "\n")
}

func TestKilledLeavesNothing(t *testing.T) {
	before := files(t)
	name := fmt.Sprintf("selftest-kill-%d", os.Getpid())
	mark := "SKEP_SELFTEST_MARK=" + name
	env := append(os.Environ(), mark, "SKEP_TESTBED="+name, roleEnv+"=wait")

	// An exec with a testbed of its own.
	cmd := exec.Command(binary, "exec", self)
	cmd.Env = env
	cmd.Dir = packageDir(t)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	if n := len(mine(t, mark)); n != 2 {
		t.Errorf("%d processes, want the command and QEMU: %q", n, mine(t, mark))
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	gone(t, mark, name)

	// One that is up: its supervisor is killed under a running session.
	up := exec.Command(binary, "up", "-foreground")
	up.Env = env
	said, err := up.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	want := "is up\n"
	for got := ""; !strings.HasSuffix(got, want); {
		b := make([]byte, 1)
		if _, err := said.Read(b); err != nil {
			t.Fatalf("up: %v after %q", err, got)
		}
		got += string(b)
	}
	cmd = exec.Command(binary, "exec", self)
	cmd.Env = env
	cmd.Dir = packageDir(t)
	if out, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	_ = up.Process.Kill()
	_ = up.Wait()
	if st := waitStatus(t, cmd.Wait()); st.ExitStatus() != 125 {
		t.Errorf("the session under it ended with %#x, want exit status 125", st)
	}
	gone(t, mark, name)
	if after := files(t); after != before {
		t.Errorf("files before:\n%s\nafter:\n%s", before, after)
	}
}

func TestDown(t *testing.T) {
	name := fmt.Sprintf("selftest-down-%d", os.Getpid())
	mark := "SKEP_SELFTEST_MARK=" + name
	env := append(os.Environ(), mark, "SKEP_TESTBED="+name)
	for _, args := range [][]string{{"up"}, {"up"}, {"status"}, {"down"}, {"down"}} {
		cmd := exec.Command(binary, args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		if args[0] == "status" && !strings.Contains(string(out), name) {
			t.Errorf("status does not show it:\n%s", out)
		}
	}
	gone(t, mark, name)
}

// forever waits to be killed. (An empty select would be a deadlock to the
// runtime where nothing else can wake the program.)
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}
