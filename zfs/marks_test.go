// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// holdKernel is a kernel that holds and releases as dsl_userhold.c does: what is not there it passes over, and says so.
func holdKernel(t *testing.T, names ...string) (k *kernel, h *Handle, held map[string]bool) {
	k, h = newKernel(t, names...)
	held = map[string]bool{}
	h.dev = zcmd.Fake(func(op zcmd.Op, c *zcmd.Cmd, src, conf, dst []byte) syscall.Errno {
		if op != zcmd.Hold && op != zcmd.Release {
			return k.serve(op, c, src, conf, dst)
		}
		if k.hook != nil {
			_ = k.hook(op, "")
		}
		in, _ := nvlist.Decode(src)
		errs, todo := nvlist.New(), []string{}
		if op == zcmd.Hold {
			for snap := range in.List("holds").All() {
				tagged := snap + "#" + in.List("holds").Str(snap)
				switch {
				case k.ds[snap] == nil:
					nvlist.Set(errs, snap, int32(syscall.ENOENT))
				case held[tagged]:
					nvlist.Set(errs, snap, int32(syscall.EEXIST))
					_ = zcmd.FakeReply(c, dst, errs)
					return syscall.EEXIST
				default:
					todo = append(todo, tagged)
				}
			}
		} else {
			for snap := range in.All() {
				for tag := range in.List(snap).All() {
					switch tagged := snap + "#" + tag; {
					case k.ds[snap] == nil:
						nvlist.Set(errs, snap, int32(syscall.ENOENT))
					case !held[tagged]:
						nvlist.Set(errs, tagged, int32(syscall.ENOENT))
					default:
						todo = append(todo, tagged)
					}
				}
			}
		}
		for _, tagged := range todo {
			if delete(held, tagged); op == zcmd.Hold {
				held[tagged] = true
			}
		}
		return zcmd.FakeReply(c, dst, errs)
	})
	return k, h, held
}

func heldNow(held map[string]bool) string {
	return strings.Join(slices.Sorted(maps.Keys(held)), " ")
}

// What is held is all or none, though the kernel holds what is there.
func TestHold(t *testing.T) {
	_, h, held := holdKernel(t, "tank", "tank@a", "tank@b", "tank@c")
	ctx := t.Context()
	if err := h.Hold(ctx, "x", []string{"tank@a", "tank@gone", "tank@b", "tank@also"}, false); !errors.Is(err, ErrNotFound) ||
		!strings.Contains(err.Error(), "tank@gone") || !strings.Contains(err.Error(), "tank@also") || len(held) != 0 {
		t.Errorf("%v; held %s", err, heldNow(held))
	}
	if err := h.Hold(ctx, "x", []string{"tank@gone"}, false); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := h.Hold(ctx, "x", []string{"tank@a", "tank@b"}, false); err != nil || heldNow(held) != "tank@a#x tank@b#x" {
		t.Errorf("%v; held %s", err, heldNow(held))
	}
	// One that has the tag keeps it where another has not got it.
	if err := h.Hold(ctx, "x", []string{"tank@gone", "tank@c", "tank@a"}, false); !errors.Is(err, ErrExists) || heldNow(held) != "tank@a#x tank@b#x" {
		t.Errorf("%v; held %s", err, heldNow(held))
	}
	// What cannot be released does not keep the rest.
	err := h.Release(ctx, "x", []string{"tank@gone", "tank@a", "tank@c"})
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "tank@gone") || !strings.Contains(err.Error(), "tank@c") ||
		strings.Contains(err.Error(), "tank@a") || heldNow(held) != "tank@b#x" {
		t.Errorf("%v; held %s", err, heldNow(held))
	}
	if err := h.Release(ctx, "x", []string{"tank@b"}); err != nil || len(held) != 0 {
		t.Errorf("%v; held %s", err, heldNow(held))
	}
}

// A package of which a snapshot goes before it is held leaves no other held.
func TestSendTreeHolds(t *testing.T) {
	k, h, held := holdKernel(t, "tank", "tank/s", "tank/s@a", "tank/s/x", "tank/s/x@a")
	once := false
	k.hook = func(op zcmd.Op, _ string) syscall.Errno {
		if op == zcmd.Hold && !once {
			once = true
			k.remove("tank/s/x@a")
		}
		return 0
	}
	if err := h.SendTree(t.Context(), io.Discard, "tank/s@a", SendTreeOptions{}); !errors.Is(err, ErrNotFound) || !once || len(held) != 0 {
		t.Errorf("%v; held %s", err, heldNow(held))
	}
}
