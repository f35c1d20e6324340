// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
)

// sentinels are hv's; an error is at most one of them.
var sentinels = []error{hv.ErrUnavailable, hv.ErrPermission, hv.ErrExists, hv.ErrLimit, hv.ErrNoMemory, hv.ErrClosed}

// checkError holds an error against the sentinel it must be, its cause, and words
// of its own.
func checkError(t *testing.T, what string, err, want, cause error, words string) {
	t.Helper()
	for _, s := range sentinels {
		if is := errors.Is(err, s); is != (s == want) {
			t.Errorf("%s: %v: is %q: %v", what, err, s, is)
		}
	}
	if !errors.Is(err, cause) || err != nil && !strings.Contains(err.Error(), words) {
		t.Errorf("%s: %v, want %q of %v", what, err, words, cause)
	}
}

// Not root, no module, no hardware, a limit, no memory: each has an error of its
// own, and every errno stays in it.
func TestErrorsOfOpening(t *testing.T) {
	denied, absent := &os.PathError{Op: "open", Path: ctlPath, Err: syscall.EACCES}, &os.PathError{Op: "open", Path: ctlPath, Err: syscall.ENOENT}
	for _, c := range []struct {
		name   string
		ctl    error
		sysctl error
		root   bool
		want   error // a sentinel
		cause  error
		words  string
	}{
		{"not root", denied, nil, false, hv.ErrPermission, syscall.EACCES, "be root"},
		{"jail without allow.vmm", &os.PathError{Op: "open", Path: ctlPath, Err: syscall.EPERM}, nil, true, hv.ErrPermission, syscall.EPERM, "allow.vmm"},
		{"hardware gone", &os.PathError{Op: "open", Path: ctlPath, Err: syscall.ENXIO}, nil, true, hv.ErrUnavailable, syscall.ENXIO, ctlPath},
		{"too many descriptors", &os.PathError{Op: "open", Path: ctlPath, Err: syscall.EMFILE}, nil, true, hv.ErrLimit, syscall.EMFILE, "descriptors"},
		{"14, root", absent, nil, true, nil, nil, ""},
		{"14, not root", absent, nil, false, hv.ErrPermission, os.ErrPermission, createSysctl},
		{"no vmm at all", absent, syscall.ENOENT, true, hv.ErrUnavailable, syscall.ENOENT, "neither"},
	} {
		err := openError(c.ctl, func() error { return c.sysctl }, c.root)
		checkError(t, c.name, err, c.want, c.cause, c.words)
	}
	for _, c := range []struct {
		errno error
		want  error
		words string
	}{
		{nil, nil, ""},
		{syscall.EEXIST, nil, ""}, // somebody was faster
		{syscall.EPERM, hv.ErrPermission, "load vmm.ko"},
		{syscall.ENOENT, hv.ErrUnavailable, "module path"},
		{syscall.ENOEXEC, hv.ErrUnavailable, "VT-x"},
		{syscall.ENXIO, hv.ErrUnavailable, "AMD-V"},
		{syscall.ENOMEM, hv.ErrNoMemory, "load vmm.ko"},
		{syscall.EIO, hv.ErrUnavailable, "load vmm.ko"},
	} {
		cause := c.errno
		if c.want == nil {
			cause = nil
		}
		checkError(t, fmt.Sprint("module: ", c.errno), moduleError(c.errno), c.want, cause, c.words)
	}
}

func TestErrorsOfCreation(t *testing.T) {
	for _, c := range []struct {
		errno syscall.Errno
		flags bool
		want  error
		words string
	}{
		{syscall.EEXIST, false, hv.ErrExists, ""},
		{syscall.ENXIO, false, hv.ErrUnavailable, "processor"},
		{syscall.EPERM, false, hv.ErrPermission, "allow.vmm"},
		{syscall.EACCES, true, hv.ErrPermission, "be root"},
		{syscall.ENOMEM, false, hv.ErrNoMemory, ""},
		{syscall.ENOMEM, true, hv.ErrLimit, "hw.vmm.maxvmms"},
		{syscall.ENOSPC, false, hv.ErrLimit, ""},
		{syscall.EAGAIN, false, hv.ErrLimit, ""},
		{syscall.ENFILE, false, hv.ErrLimit, ""},
		{syscall.EINVAL, false, nil, ""},
	} {
		checkError(t, fmt.Sprintf("%v, flags %v", c.errno, c.flags), createError(c.errno, c.flags), c.want, c.errno, c.words)
	}
	if err := createError(nil, true); err != nil {
		t.Error(err)
	}
	checkError(t, "memory segments", explain(syscall.ENOMEM), hv.ErrNoMemory, syscall.ENOMEM, "no memory")
}

// fakeCtl is /dev/vmmctl of a version.
type fakeCtl struct {
	version int
	err     error // of a creation whose flags are right
	asked   []int32
}

func (c *fakeCtl) ioctl(req uint32, arg unsafe.Pointer) error {
	if req != abi.VMMCTL_VM_CREATE {
		return syscall.ENOTTY
	}
	flags := (*abi.CtlCreate)(arg).Reserved[0]
	c.asked = append(c.asked, flags)
	if c.version < 16 && flags != 0 {
		return syscall.EINVAL
	}
	return c.err
}

// A machine ends with its process where the kernel can do it; the question is put
// once.
func TestCreateByVersion(t *testing.T) {
	for _, c := range []struct {
		ctl   fakeCtl
		times int
		want  error
		asked string
		state flagState
	}{
		{fakeCtl{version: 15}, 2, nil, "[1 0 0]", flagsNo},
		{fakeCtl{version: 16}, 2, nil, "[1 1]", flagsYes},
		// What fails says nothing of the version.
		{fakeCtl{version: 15, err: syscall.EEXIST}, 2, hv.ErrExists, "[1 0 1 0]", flagsUnknown},
		{fakeCtl{version: 16, err: syscall.EEXIST}, 2, hv.ErrExists, "[1 1]", flagsUnknown},
		{fakeCtl{version: 15, err: syscall.ENOMEM}, 1, hv.ErrNoMemory, "[1 0]", flagsUnknown},
		{fakeCtl{version: 16, err: syscall.ENOMEM}, 1, hv.ErrLimit, "[1]", flagsUnknown},
		{fakeCtl{version: 16, err: syscall.EINVAL}, 1, nil, "[1 0]", flagsUnknown},
	} {
		m := creator{dev: &c.ctl}
		var err error
		for range c.times {
			err = m.create("skep-vm1")
		}
		what := fmt.Sprintf("FreeBSD %d, %v", c.ctl.version, c.ctl.err)
		checkError(t, what, err, c.want, c.ctl.err, "")
		if got := fmt.Sprint(c.ctl.asked); got != c.asked || m.closeDestroy != c.state {
			t.Errorf("%s: flags %s, want %s; state %d, want %d", what, got, c.asked, m.closeDestroy, c.state)
		}
	}
}
