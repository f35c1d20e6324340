// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// jailEnv has this program look, from within a jail, for datasets: "JID NAME…".
const jailEnv = "SKEP_TEST_JAIL"

// A jail sees the file system that it was given, and no longer when that is taken from it.
func TestRealJail(t *testing.T) {
	if s := os.Getenv(jailEnv); s != "" {
		lookFromJail(t, strings.Fields(s))
		return
	}
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 64*mib)
	given, other := p+"/given", p+"/other"
	if err := errors.Join(h.CreateFilesystem(ctx, given, Props{"jailed": "on"}), h.CreateFilesystem(ctx, other, nil)); err != nil {
		t.Fatal(err)
	}
	jid, err := jailSet([][2]string{{"name", "zfstest"}, {"path", "/"}, {"persist", ""}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, _, errno := syscall.Syscall(unix.SYS_JAIL_REMOVE, uintptr(jid), 0, 0); errno != 0 {
			t.Error(errno)
		}
	})
	sees := func(when, want string) {
		t.Helper()
		cmd := exec.Command(os.Args[0], "-test.run=^TestRealJail$", "-test.v")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s %s", jailEnv, jid, given, other))
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "sees ["+want+"]\n") {
			t.Errorf("%s it is to see %q: %v\n%s", when, want, err, out)
		}
	}
	sees("at first", "")
	if err := h.Jail(ctx, given, jid); err != nil {
		t.Fatal(err)
	}
	sees("given it", given)
	wantKind(t, "give it again", given, h.Jail(ctx, given, jid), ErrExists)
	wantKind(t, "give to no jail", other, h.Jail(ctx, other, jid+1000), ErrNotFound)
	wantKind(t, "take what it has not", other, h.Unjail(ctx, other, jid), ErrNotFound)
	if err := h.Unjail(ctx, given, jid); err != nil {
		t.Fatal(err)
	}
	sees("when it was taken", "")
}

func lookFromJail(t *testing.T, args []string) {
	jid, err := strconv.Atoi(args[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, _, errno := syscall.Syscall(unix.SYS_JAIL_ATTACH, uintptr(jid), 0, 0); errno != 0 {
		t.Fatal(errno)
	}
	h := open(t)
	var seen []string
	for _, name := range args[1:] {
		switch _, err := h.Get(t.Context(), name); {
		case err == nil:
			seen = append(seen, name)
		case !errors.Is(err, ErrNotFound):
			t.Error(err)
		}
	}
	fmt.Printf("sees %v\n", seen)
}
