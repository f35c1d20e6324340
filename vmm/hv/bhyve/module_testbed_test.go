// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && freebsd

package bhyve

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm/hv"
)

const modulePath = "kern.module_path"

// unloadModule takes vmm.ko out of the kernel, and puts it back after the test for
// those that follow.
func unloadModule(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if err := loadModule(); err != nil {
			t.Error(err)
		}
	})
	// A machine whose descriptors were just closed goes a moment later.
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		id, err := kldFind("vmm.ko")
		if errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			t.Fatalf("kldfind: %v", err)
		}
		_, _, errno := unix.Syscall(unix.SYS_KLDUNLOAD, id, 0, 0)
		if errno != 0 && (errno != unix.EBUSY || time.Now().After(end)) {
			t.Fatalf("kldunload: %v (EBUSY: there is a machine, or the boot loader has loaded vmm.ko)", errno)
		}
	}
	if err := moduleFind("vmm"); !errors.Is(err, unix.ENOENT) {
		t.Fatalf("vmm.ko was unloaded, and vmm is still there: %v", err)
	}
	if _, err := os.Stat(ctlPath); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("vmm.ko was unloaded, and %s is still there: %v", ctlPath, err)
	}
}

// refused opens the hypervisor, which must fail, and leaves no module behind.
func refused(t *testing.T, want, cause error, words string) {
	t.Helper()
	b, err := Open()
	if err == nil {
		b.Close()
	}
	if !errors.Is(err, want) || !errors.Is(err, cause) || !strings.Contains(err.Error(), words) {
		t.Errorf("%v, want %q of %v and %v", err, words, want, cause)
	}
}

// asNobody does something without root's rights.
func asNobody(t *testing.T, do func()) {
	t.Helper()
	if err := unix.Seteuid(65534); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Seteuid(0); err != nil {
			t.Fatal(err)
		}
	}()
	do()
}

// A missing vmm.ko is loaded, and machines run; also one that was loaded so before.
func TestModuleIsLoaded(t *testing.T) {
	for range 2 {
		unloadModule(t)
		g := freeGuest(t, 1)
		if err := moduleFind("vmm"); err != nil {
			t.Errorf("a machine without vmm: %v", err)
		}
		g.load(0x1000, code(t, "b056 e6e9 fa f4 ebfd")) // mov al, 'V'; out 0xe9, al; cli; hlt
		r := &recorder{}
		if e := g.runAll(t, r, flat(0x1000)); e[0] != (hv.Halted{}) || r.String() != "out1 e9=56" {
			t.Errorf("%v; accesses %v", e[0], r)
		}
		if err := errors.Join(g.Close(), g.b.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// Who is not root may not load it, and may not use one that is there.
func TestModuleIsNotPermitted(t *testing.T) {
	unloadModule(t)
	asNobody(t, func() { refused(t, hv.ErrPermission, unix.EPERM, "load vmm.ko") })
	if err := moduleFind("vmm"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("vmm after a load that was refused: %v", err)
	}
	if err := loadModule(); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() { refused(t, hv.ErrPermission, os.ErrPermission, "be root") })
}

// A kernel that finds no vmm.ko says so; with its path back it is loaded.
func TestModuleIsNotInThePath(t *testing.T) {
	path, err := unix.Sysctl(modulePath)
	if err != nil {
		t.Fatal(err)
	}
	unloadModule(t)
	if err := writeSysctl(modulePath, ""); err != nil {
		t.Fatal(err)
	}
	refused(t, hv.ErrUnavailable, unix.ENOENT, "module path")
	if err := writeSysctl(modulePath, path); err != nil {
		t.Fatal(err)
	}
	b, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
