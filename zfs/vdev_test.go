// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// The alignment that is asked for counts for every kind of device that is added.
func TestAddVdevsAshift(t *testing.T) {
	f := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(f, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, s := range map[string]PoolSpec{
		"data": {Data: []VdevSpec{Disk(f)}}, "log": {Logs: []VdevSpec{Disk(f)}}, "special": {Special: []VdevSpec{Disk(f)}}, "dedup": {Dedup: []VdevSpec{Disk(f)}},
	} {
		var ashift uint64
		h := newHandle(zcmd.Fake(func(op zcmd.Op, _ *zcmd.Cmd, _, conf, _ []byte) syscall.Errno {
			if op == zcmd.VdevAdd {
				root, err := nvlist.Decode(conf)
				if err != nil {
					return syscall.EINVAL
				}
				ashift, _ = root.Lists("children")[0].Uint("ashift")
			}
			return 0
		}), func() (string, error) { return "2.3.2-1", nil })
		s.Props = Props{"ashift": "13"}
		if err := h.AddVdevs(t.Context(), "tank", s); err != nil || ashift != 13 {
			t.Errorf("%s: ashift %d, %v", what, ashift, err)
		}
		s.Props = Props{"ashift": "99"}
		if err := h.AddVdevs(t.Context(), "tank", s); !isKind(err, ErrInvalid) {
			t.Errorf("%s: ashift 99: %v", what, err)
		}
	}
}

// The kernel answers an import with a pool's configuration and fails, with the
// pool imported, where that is larger than the buffer for it.
func TestImportOfLargePool(t *testing.T) {
	imported := false
	h := newHandle(zcmd.Fake(func(op zcmd.Op, _ *zcmd.Cmd, _, _, dst []byte) syscall.Errno {
		switch {
		case op != zcmd.PoolImport:
			return syscall.ENOENT
		case imported:
			return syscall.EEXIST
		}
		imported = true
		if dst != nil && len(dst) < 1<<20 {
			return syscall.ENOMEM
		}
		return 0
	}), func() (string, error) { return "2.3.2-1", nil })
	c := &Candidate{Name: "tank", GUID: 1, Config: nvlist.New(nvlist.P("pool_guid", uint64(1))), Pool: &Pool{Root: &Vdev{}}}
	if err := h.Import(t.Context(), c, ImportOptions{}); err != nil || !imported {
		t.Error(imported, err)
	}
}
