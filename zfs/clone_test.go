// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// Where a module cannot clone in a program, or does not let this caller, it goes
// by requests; what failed is named, and then nothing is left.
func TestSnapshotAndClone(t *testing.T) {
	gave := func(step, errno int64) func(zcmd.Op, *zcmd.Cmd, []byte) (syscall.Errno, bool) {
		return func(op zcmd.Op, c *zcmd.Cmd, dst []byte) (syscall.Errno, bool) {
			if op != zcmd.ChannelProgram {
				return 0, false
			}
			return zcmd.FakeReply(c, dst, nvlist.New(nvlist.P("return", nvlist.New(nvlist.P("step", step), nvlist.P("errno", errno))))), true
		}
	}
	refuse := func(op zcmd.Op, c *zcmd.Cmd, dst []byte) (syscall.Errno, bool) {
		return syscall.EPERM, op == zcmd.ChannelProgram
	}
	const requests = "[Snapshot Clone]"
	for _, tc := range []struct {
		what, version string
		answer        func(zcmd.Op, *zcmd.Cmd, []byte) (syscall.Errno, bool)
		props         Props
		busy          bool // the clone's name is taken
		kind          error
		says          string
		asked         string
	}{
		{"old module", "2.3.2-1", nil, Props{"a:b": "c"}, false, nil, "", requests},
		{"program", "2.4.0-1", gave(3, 0), Props{"a:b": "c"}, false, nil, "", "[ChannelProgram]"},
		{"no such function", "2.4.0-1", gave(0, 0), nil, false, nil, "", "[ChannelProgram Snapshot Clone]"},
		{"not root", "2.4.0-1", refuse, nil, false, nil, "", "[ChannelProgram Snapshot Clone]"},
		{"a native property", "2.4.0-1", gave(3, 0), Props{"a:b": "c", "volmode": "none"}, false, nil, "", requests},
		{"many properties", "2.4.0-1", gave(3, 0), Props{"a:1": "", "a:2": "", "a:3": "", "a:4": "", "a:5": ""}, false, nil, "", requests},
		{"snapshot there", "2.4.0-1", gave(1, int64(syscall.EEXIST)), nil, false, ErrExists, "tank/a@1", "[ChannelProgram]"},
		{"a snapshot in the same group", "2.4.0-1", gave(1, int64(syscall.EAGAIN)), nil, false, nil, "", "[ChannelProgram Snapshot Clone]"},
		{"no parent", "2.4.0-1", gave(2, int64(syscall.ENOENT)), nil, false, ErrNotFound, "tank/c", "[ChannelProgram]"},
		{"no room for a property", "2.4.0-1", gave(3, int64(syscall.ENOSPC)), Props{"a:b": "c"}, false, ErrNoSpace, "tank/c", "[ChannelProgram]"},
		{"clone there", "2.3.2-1", nil, nil, true, ErrExists, "tank/c", "[Snapshot Clone DestroySnaps]"},
		{"bad property", "2.4.0-1", gave(3, 0), Props{"nosuch": "1"}, false, ErrProperty, "nosuch", "[]"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			names := []string{"tank", "tank/a"}
			if tc.busy {
				names = append(names, "tank/c")
			}
			k, _ := newKernel(t, names...)
			k.answer = tc.answer
			h := newHandle(zcmd.Fake(k.serve), func() (string, error) { return tc.version, nil })
			err := h.SnapshotAndClone(t.Context(), "tank/a@1", "tank/c", tc.props)
			if !errors.Is(err, tc.kind) || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want %v of %s", err, tc.kind, tc.says)
			}
			known := map[zcmd.Op]string{zcmd.ChannelProgram: "ChannelProgram", zcmd.Snapshot: "Snapshot", zcmd.Clone: "Clone", zcmd.DestroySnaps: "DestroySnaps"}
			var asked []string
			for _, op := range k.calls {
				asked = append(asked, known[op])
			}
			if got := "[" + strings.Join(asked, " ") + "]"; got != tc.asked {
				t.Errorf("asked for %s, want %s", got, tc.asked)
			}
			if err != nil && slices.Contains(k.names(), "tank/a@1") {
				t.Error("a snapshot is left")
			}
		})
	}
}
