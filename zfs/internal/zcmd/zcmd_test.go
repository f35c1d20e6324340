// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/skepvm/skep/zfs/nvlist"
)

type abiTable struct {
	Source  string
	Structs map[string]struct {
		Size   uintptr
		Fields []struct {
			Name         string
			Offset, Size uintptr
		}
	}
	IocNumbers map[string]uint32 `json:"ioc_numbers"`
}

func readABI(t *testing.T) abiTable {
	t.Helper()
	b, err := os.ReadFile("testdata/abi-zfs-freebsd15-amd64.json")
	if err != nil {
		t.Fatal(err)
	}
	var a abiTable
	if err := json.Unmarshal(b, &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// cmdFields are the names of zfs_cmd_t's fields in C.
var cmdFields = map[string]string{
	"Name": "zc_name", "NvlistSrc": "zc_nvlist_src", "NvlistSrcSize": "zc_nvlist_src_size",
	"NvlistDst": "zc_nvlist_dst", "NvlistDstSize": "zc_nvlist_dst_size", "DstFilled": "zc_nvlist_dst_filled",
	"History": "zc_history", "Value": "zc_value", "String": "zc_string", "GUID": "zc_guid",
	"NvlistConf": "zc_nvlist_conf", "NvlistConfLen": "zc_nvlist_conf_size", "Cookie": "zc_cookie",
	"ObjsetType": "zc_objset_type", "PermAction": "zc_perm_action", "HistoryLen": "zc_history_len",
	"HistoryOffset": "zc_history_offset", "Obj": "zc_obj", "Iflags": "zc_iflags", "Share": "zc_share",
	"ObjsetStats": "zc_objset_stats", "BeginRecord": "zc_begin_record", "Inject": "zc_pad1",
	"DeferDestroy": "zc_defer_destroy", "Flags": "zc_flags", "ActionHandle": "zc_action_handle",
	"CleanupFD": "zc_cleanup_fd", "Simple": "zc_simple", "SendObj": "zc_sendobj", "FromObj": "zc_fromobj",
	"CreateTxg": "zc_createtxg", "Stat": "zc_stat", "ZoneID": "zc_zoneid",
}

func TestLayoutFreeBSD(t *testing.T) {
	abi := readABI(t)
	typ := reflect.TypeFor[layout[[1024]byte, [2048]byte]]()
	want := abi.Structs["zfs_cmd"]
	if typ.Size() != want.Size || typ.Size() != 4528 {
		t.Errorf("zfs_cmd has %d bytes, want %d", typ.Size(), want.Size)
	}
	// An anonymous union's members are in the table twice; the first is from the structure's start.
	table := map[string][2]uintptr{}
	for _, f := range want.Fields {
		if _, ok := table[f.Name]; !ok {
			table[f.Name] = [2]uintptr{f.Offset, f.Size}
		}
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Name == "_" {
			continue
		}
		w, ok := table[cmdFields[f.Name]]
		if !ok || w[0] != f.Offset || w[1] != f.Type.Size() {
			t.Errorf("%s at %d, %d bytes; want %v (%v)", f.Name, f.Offset, f.Type.Size(), w, ok)
		}
	}
	for c, g := range map[string]reflect.Type{"dmu_objset_stats": reflect.TypeFor[ObjsetStats](), "zfs_stat": reflect.TypeFor[Stat]()} {
		want := abi.Structs[c]
		if g.Size() != want.Size || g.NumField() != len(want.Fields) {
			t.Errorf("%s: %d bytes, want %d", c, g.Size(), want.Size)
		}
		for i, f := range want.Fields {
			if gf := g.Field(i); gf.Offset != f.Offset || gf.Type.Size() != f.Size {
				t.Errorf("%s.%s at %d, want %d", c, f.Name, gf.Offset, f.Offset)
			}
		}
	}
}

// The offsets of Linux, from its zfs_cmd_t of 13744 bytes.
func TestLayoutLinux(t *testing.T) {
	typ := reflect.TypeFor[layout[[4096]byte, [8192]byte]]()
	if typ.Size() != 13744 {
		t.Errorf("zfs_cmd has %d bytes", typ.Size())
	}
	for name, want := range map[string]uintptr{
		"Name": 0, "NvlistSrc": 4096, "NvlistSrcSize": 4104, "NvlistDst": 4112, "NvlistDstSize": 4120, "DstFilled": 4128,
		"History": 4136, "Value": 4144, "String": 12336, "GUID": 12592, "NvlistConf": 12600, "NvlistConfLen": 12608,
		"Cookie": 12616, "ObjsetType": 12624, "PermAction": 12632, "HistoryLen": 12640, "HistoryOffset": 12648, "Obj": 12656,
		"Iflags": 12664, "Share": 12672, "ObjsetStats": 12704, "BeginRecord": 12992, "DeferDestroy": 13648, "Flags": 13652,
		"ActionHandle": 13656, "CleanupFD": 13664, "Simple": 13668, "SendObj": 13672, "FromObj": 13680, "CreateTxg": 13688,
		"Stat": 13696, "ZoneID": 13736,
	} {
		if f, ok := typ.FieldByName(name); !ok || f.Offset != want {
			t.Errorf("%s at %d, want %d", name, f.Offset, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	want := readABI(t).IocNumbers
	for name, op := range map[string]Op{
		"POOL_CREATE": PoolCreate, "POOL_DESTROY": PoolDestroy, "POOL_IMPORT": PoolImport, "POOL_EXPORT": PoolExport,
		"POOL_CONFIGS": PoolConfigs, "POOL_STATS": PoolStats, "POOL_TRYIMPORT": PoolTryimport, "POOL_SCAN": PoolScan,
		"POOL_UPGRADE": PoolUpgrade, "POOL_GET_HISTORY": PoolGetHistory, "VDEV_ADD": VdevAdd, "VDEV_REMOVE": VdevRemove,
		"VDEV_SET_STATE": VdevSetState, "VDEV_ATTACH": VdevAttach, "VDEV_DETACH": VdevDetach, "VDEV_SETPATH": VdevSetpath,
		"OBJSET_STATS": ObjsetStatsOp, "OBJSET_ZPLPROPS": ObjsetZplprops, "DATASET_LIST_NEXT": DatasetListNext,
		"SNAPSHOT_LIST_NEXT": SnapshotList, "SET_PROP": SetProp, "CREATE": Create, "DESTROY": Destroy, "ROLLBACK": Rollback,
		"RENAME": Rename, "ERROR_LOG": ErrorLog, "CLEAR": Clear, "PROMOTE": Promote, "SNAPSHOT": Snapshot,
		"DSOBJ_TO_DSNAME": DsobjToDsname, "OBJ_TO_PATH": ObjToPath, "POOL_SET_PROPS": PoolSetProps,
		"POOL_GET_PROPS": PoolGetProps, "INHERIT_PROP": InheritProp, "USERSPACE_ONE": UserspaceOne,
		"USERSPACE_MANY": UserspaceMany, "HOLD": Hold, "RELEASE": Release, "GET_HOLDS": GetHolds,
		"OBJSET_RECVD_PROPS": ObjsetRecvd, "VDEV_SPLIT": VdevSplit, "DIFF": Diff, "NEXT_OBJ": NextObj, "TMP_SNAPSHOT": TmpSnapshot,
		"OBJ_TO_STATS": ObjToStats, "SPACE_WRITTEN": SpaceWritten, "SPACE_SNAPS": SpaceSnaps, "DESTROY_SNAPS": DestroySnaps,
		"POOL_REGUID": PoolReguid, "POOL_REOPEN": PoolReopen, "SEND_PROGRESS": SendProgress, "LOG_HISTORY": LogHistory,
		"SEND_NEW": SendNew, "SEND_SPACE": SendSpace, "CLONE": Clone, "BOOKMARK": Bookmark, "GET_BOOKMARKS": GetBookmarks,
		"DESTROY_BOOKMARKS": DestroyBookmark, "RECV_NEW": RecvNew, "POOL_SYNC": PoolSync, "CHANNEL_PROGRAM": ChannelProgram,
		"LOAD_KEY": LoadKey, "UNLOAD_KEY": UnloadKey, "CHANGE_KEY": ChangeKey, "POOL_CHECKPOINT": PoolCheckpoint,
		"POOL_DISCARD_CHECKPOINT": PoolDiscardChk, "POOL_INITIALIZE": PoolInitialize, "POOL_TRIM": PoolTrim,
		"GET_BOOKMARK_PROPS": GetBookmarkProp, "WAIT": Wait, "WAIT_FS": WaitFS, "POOL_SCRUB": PoolScrub,
		"EVENTS_NEXT": EventsNext, "EVENTS_CLEAR": EventsClear, "EVENTS_SEEK": EventsSeek, "JAIL": Jail, "UNJAIL": Unjail,
	} {
		if n, ok := want["ZFS_IOC_"+name]; !ok || n != uint32(op) {
			t.Errorf("%s is %#x, want %#x", name, uint32(op), n)
		}
	}
}

func TestReplyGrows(t *testing.T) {
	big := nvlist.New(nvlist.P("s", strings.Repeat("x", 3*firstReply)))
	calls := 0
	for name, silent := range map[string]bool{"says the size": false, "says nothing": true} {
		t.Run(name, func(t *testing.T) {
			calls = 0
			d := Fake(func(op Op, c *Cmd, src, conf, dst []byte) syscall.Errno {
				calls++
				if c.Cookie != 7 || String(c.Name[:]) != "tank" {
					t.Errorf("retry with cookie %d name %q", c.Cookie, String(c.Name[:]))
				}
				c.Cookie, c.Name[0] = 99, 'X' // as the list requests do
				errno := FakeReply(c, dst, big)
				if silent && errno != 0 {
					c.NvlistDstSize = uint64(len(dst))
				}
				return errno
			})
			r := d.Request("tank")
			defer r.Release()
			r.Cmd.Cookie = 7
			if err := r.Do(t.Context(), DatasetListNext); err != nil {
				t.Fatal(err)
			}
			l, err := r.Reply()
			if err != nil || !l.Equal(big) {
				t.Errorf("reply: %v", err)
			}
			if want := map[bool]int{false: 2, true: 3}[silent]; calls != want {
				t.Errorf("%d calls, want %d", calls, want)
			}
		})
	}
}

func TestDo(t *testing.T) {
	interrupts := 2
	d := Fake(func(op Op, c *Cmd, src, conf, dst []byte) syscall.Errno {
		switch op {
		case Create:
			if interrupts > 0 {
				interrupts--
				return syscall.EINTR
			}
			return FakeReply(c, dst, nvlist.New())
		case Destroy:
			if dst != nil {
				t.Error("a reply buffer for DoOnce")
			}
			return syscall.EINTR
		case Clone:
			l, err := nvlist.Decode(src)
			if err != nil || l.Str("origin") != "a@b" {
				t.Errorf("input %v %v", l, err)
			}
			c.NvlistDstSize, c.DstFilled = 40, 1
			copy(dst, "garbage, not an nvlist at all, not in any way")
			return 0
		}
		return syscall.ENOMEM
	})
	r := d.Request("tank")
	if err := r.Do(t.Context(), Create); err != nil || interrupts != 0 {
		t.Error(err, interrupts)
	}
	if err := r.DoOnce(t.Context(), Destroy); !errors.Is(err, syscall.EINTR) {
		t.Error(err)
	}
	if err := r.SetInput(nvlist.New(nvlist.P("origin", "a@b"))); err != nil {
		t.Fatal(err)
	}
	if err := r.Do(t.Context(), Clone); err != nil {
		t.Error(err)
	}
	if _, err := r.Reply(); !errors.Is(err, nvlist.ErrEncoding) {
		t.Error(err)
	}
	r.Release()
	r = d.Request("other")
	defer r.Release()
	if len(r.src) != 0 || r.Cmd.Cookie != 0 {
		t.Error("a request keeps what the one before it had")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Do(ctx, Create); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestStrings(t *testing.T) {
	var b [4]byte
	SetString(b[:], "toolong")
	if String(b[:]) != "too" {
		t.Errorf("%q", b)
	}
	SetString(b[:], "a")
	if String(b[:]) != "a" || b[2] != 0 {
		t.Errorf("%q", b)
	}
	if String([]byte("full")) != "full" {
		t.Error("no NUL")
	}
}
