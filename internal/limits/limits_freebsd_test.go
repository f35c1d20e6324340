// SPDX-License-Identifier: BSD-2-Clause

package limits

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	for _, c := range []struct {
		enable []byte
		err    error
		want   string
	}{
		{[]byte{1}, nil, ""},
		{[]byte{1, 0, 0, 0}, nil, ""},
		{[]byte{0}, nil, "loader.conf"},
		{[]byte{0, 0, 0, 0}, nil, "loader.conf"},
		{nil, unix.ENOENT, "without RACCT"},
		{nil, unix.EPERM, unix.EPERM.Error()},
	} {
		h := &Host{}
		err := h.open(c.enable, c.err)
		if h.on != (c.want == "") || (err == nil) != h.on || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("kern.racct.enable=%v, %v: %v, on is %t", c.enable, c.err, err, h.on)
		}
		if !h.on && h.Bind(7, Bounds{}) != nil {
			t.Error("rules where there are none")
		}
	}
}

func TestBind(t *testing.T) {
	var rules []string
	var refuse error
	h := &Host{on: true, call: func(nr uintptr, in string) (string, error) {
		if nr != unix.SYS_RCTL_ADD_RULE {
			t.Errorf("call %d", nr)
		}
		rules = append(rules, in)
		return "", refuse
	}}
	if err := h.Bind(7, Bounds{CPUs: 2, Memory: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	want := []string{"process:7:memoryuse:deny=604241920", "process:7:nthr:deny=512", "process:7:openfiles:deny=512", "process:7:pcpu:deny=400"}
	if !slices.Equal(rules, want) {
		t.Errorf("rules %q, want %q", rules, want)
	}
	for _, refuse = range []error{unix.ENOSYS, unix.EOPNOTSUPP, unix.EPERM} {
		rules = nil
		if err := h.Bind(7, Bounds{}); !errors.Is(err, refuse) || !strings.Contains(err.Error(), "rctl: ") {
			t.Errorf("refused by %v: %v", refuse, err)
		}
		if one := refuse == unix.ENOSYS; one != (len(rules) == 1) {
			t.Errorf("refused by %v: %q", refuse, rules)
		}
	}
}
