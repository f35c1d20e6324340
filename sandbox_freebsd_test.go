// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// probes are what a guest that has broken out of its VMM would try next.
var probes = []struct {
	name string
	try  func() error
}{
	{"open a file", func() error { _, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0); return err }},
	{"make a file", func() error { _, err := unix.Open("/x", unix.O_CREAT|unix.O_WRONLY, 0o600); return err }},
	{"connect", func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Connect(fd, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{127, 0, 0, 1}})
	}},
	{"start a program", func() error { return syscall.Exec("/bin/sh", []string{"sh"}, nil) }},
	{"trace a process", func() error { return unix.PtraceAttach(1) }},
	{"signal another", func() error { return unix.Kill(1, 0) }},
	{"mount", func() error { return unix.Unmount("/tmp", 0) }},
	{"become root", func() error { return unix.Chroot("/") }},
}

func probe(say func(string)) {
	for _, p := range probes {
		err := p.try()
		say(fmt.Sprintf("probe %s: %v", p.name, errors.Is(err, unix.ECAPMODE) || errors.Is(err, unix.EPERM)))
	}
	say("probed")
}

func TestSandbox(t *testing.T) {
	p := newPlace(t)
	h := p.open(t)
	m := create(t, h, spec("vm1"))
	c, err := m.Console(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, "probe")
	refused := 0
	for sc := bufio.NewScanner(c); sc.Scan() && sc.Text() != "probed"; {
		what, how, ok := strings.Cut(strings.TrimPrefix(sc.Text(), "probe "), ": ")
		if !ok {
			continue
		}
		if how != "true" {
			t.Errorf("%s was not refused", what)
		}
		refused++
	}
	if refused != len(probes) {
		t.Errorf("%d of %d probes were answered", refused, len(probes))
	}
	typeLine(t, m, "hello") // the guest runs on
	checkConfined(t, m.Status().WorkerPID)
	p.destroyAll(t, h)
}

// checkConfined looks at a worker from outside: ki_cr_flags of kinfo_proc says
// KI_CRF_CAPABILITY_MODE (sys/user.h).
func checkConfined(t *testing.T, pid int) {
	t.Helper()
	b, err := unix.SysctlRaw("kern.proc.pid", pid)
	if err != nil || len(b) != sizeofKinfoProc {
		t.Fatalf("kinfo_proc of %d: %d bytes, %v", pid, len(b), err)
	}
	if flags := binary.NativeEndian.Uint32(b[588:]); flags&1 == 0 {
		t.Errorf("the worker is not in capability mode: %#x", flags)
	}
}
