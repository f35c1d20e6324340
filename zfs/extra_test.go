// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// What is read besides is read where it is asked for, and only there.
func TestExtraProperties(t *testing.T) {
	k, h := newKernel(t, "tank", "tank/a", "tank/a@s")
	ctx := t.Context()
	reply := nvlist.New(nvlist.P("version", uint64(5)), nvlist.P("utf8only", uint64(1)), nvlist.P("normalization", uint64(0x20)),
		nvlist.P("casesensitivity", uint64(2)))
	asked, broken := 0, syscall.Errno(0)
	k.answer = func(op zcmd.Op, c *zcmd.Cmd, dst []byte) (syscall.Errno, bool) {
		switch op {
		case zcmd.ObjsetZplprops:
			asked++
			if broken != 0 {
				return broken, true
			}
			return zcmd.FakeReply(c, dst, reply), true
		case zcmd.PoolGetProps:
			return zcmd.FakeReply(c, dst, nvlist.New(nvlist.P("altroot", nvlist.New(nvlist.P("value", "/alt"))))), true
		}
		return 0, false
	}
	for _, name := range []string{"tank/a", "tank/a@s"} {
		d, err := h.Get(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		for prop, want := range map[string]string{"version": "5", "utf8only": "on", "normalization": "formKD", "casesensitivity": "mixed", "name": name} {
			if p, ok := d.Property(prop); !ok || p.Value != want || p.Source != SourceNone {
				t.Errorf("%s of %s: %+v", prop, name, p)
			}
		}
		if name == "tank/a" && (d.Value("mounted") != "no" || d.Value("mountpoint") != "/alt/tank/a") {
			t.Error(d.Value("mounted"), d.Value("mountpoint"))
		}
	}
	asked = 0
	d, err := h.Get(ctx, "tank/a", "used", "atime")
	if err != nil || asked != 0 || d.Value("used") == "" || d.Value("atime") != "on" {
		t.Error(asked, err)
	}
	for _, none := range []string{"version", "mounted", "mountpoint", "exec"} {
		if p, ok := d.Property(none); ok {
			t.Errorf("%+v was not asked for", p)
		}
	}
	for d, err := range h.Descend(ctx, "tank", Filesystems, Snapshots, With("version")) {
		if err != nil || d.Value("version") != "5" {
			t.Error(d, err)
		}
	}
	// What cannot be read is not there, and no default is given for it.
	for _, broken = range []syscall.Errno{syscall.ENOENT, syscall.EACCES, syscall.EIO} {
		d, err := h.Get(ctx, "tank/a")
		if _, ok := d.Property("utf8only"); ok || err != nil || d.Value("used") == "" {
			t.Error(broken, err)
		}
	}
}

func TestTemporary(t *testing.T) {
	d := &Dataset{Name: "tank", Kind: Filesystem, props: nvlist.New(), options: "ro,nosuid,relatime,xattr,posixacl", version: Version{Major: 2, Minor: 3}}
	for name, want := range map[string]Property{
		"readonly": {"readonly", "on", 1, SourceTemporary, ""}, "setuid": {"setuid", "off", 0, SourceTemporary, ""},
		"exec": {"exec", "on", 1, SourceDefault, ""}, "atime": {"atime", "on", 1, SourceDefault, ""},
	} {
		if got, ok := d.Property(name); !ok || got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	d.options = ""
	if p, _ := d.Property("readonly"); p.Value != "off" {
		t.Errorf("%+v", p)
	}
}

func TestApplies(t *testing.T) {
	for _, c := range []struct {
		name    string
		kind    Kind
		head    Kind
		version Version
		want    bool
	}{
		{"recordsize", Volume, Volume, Version{Major: 2, Minor: 3}, false},
		{"devices", Snapshot, Filesystem, Version{Major: 2, Minor: 3}, true},
		{"devices", Snapshot, Volume, Version{Major: 2, Minor: 3}, false},
		{"direct", Filesystem, Filesystem, Version{Major: 2, Minor: 2}, false},
		{"direct", Filesystem, Filesystem, Version{Major: 2, Minor: 3}, true},
		{"special_small_blocks", Volume, Volume, Version{Major: 2, Minor: 3}, false},
		{"special_small_blocks", Volume, Volume, Version{Major: 2, Minor: 4}, true},
		{"special_small_blocks", Filesystem, Filesystem, Version{Major: 2, Minor: 1}, true},
	} {
		d := &Dataset{Kind: c.kind, head: c.head, version: c.version}
		if got := d.applies(properties[c.name]); got != c.want {
			t.Errorf("%s of a %s in %v: %v", c.name, c.kind, c.version, got)
		}
	}
}

func TestDeviceErrors(t *testing.T) {
	for err, want := range map[error]error{
		fs.ErrNotExist: ErrUnavailable, syscall.ENXIO: ErrUnavailable, syscall.EACCES: ErrPermission, syscall.EBUSY: ErrBusy, syscall.EPERM: ErrBusy,
	} {
		if got := deviceError("add", "tank", "/dev/x", err, ErrBusy); !errors.Is(got, want) || !errors.Is(got, err) {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
	_, h := newKernel(t, "tank")
	gone := filepath.Join(t.TempDir(), "gone")
	if err := h.CreatePool(t.Context(), PoolSpec{Name: "p", Data: []VdevSpec{Disk(gone)}}); !errors.Is(err, ErrUnavailable) || !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
